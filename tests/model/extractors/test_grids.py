"""Extractors on tiny checkpoints in the published layouts, against transformers' own loop."""

import numpy as np
import pytest
import torch
from PIL import Image

from chiasma.core.errors import ConfigError
from chiasma.data.boxes import cells
from chiasma.data.image import quiet_decoding
from chiasma.model.encoders.extractor import Place
from chiasma.model.encoders.extractors import CLIP, T5, DINOv2, ResNet
from tests.published import SIDE, save_backbone

PLACE = Place(device=torch.device("cpu"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return {kind: str(save_backbone(kind, root / kind)) for kind in ("resnet", "clip", "dinov2", "t5")}


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((30, 50), (64, 31), (40, 40))]


def extracted(extractor, contents):
    with quiet_decoding():
        return extractor.encode([extractor.prepare(content) for content in contents])


def theirs(folder: str) -> torch.Tensor:
    """Return what transformers' own loop sees."""
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    network = AutoModel.from_pretrained(folder).eval()
    pixels = processor(images(), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        if hasattr(network, "vision_model"):
            seen = network.vision_model(pixel_values=pixels)
            return torch.cat([seen.pooler_output[:, None], network.vision_model.post_layernorm(seen[0][:, 1:])], 1)
        return network(pixel_values=pixels).last_hidden_state


@pytest.mark.parametrize(("spec", "kind"), [(CLIP, "clip"), (DINOv2, "dinov2")])
def test_patches_are_those_of_transformers_after_the_token_of_the_whole(folders, spec, kind):
    made = extracted(spec(weights=folders[kind]).build(PLACE), images())
    expected = theirs(folders[kind]).numpy()
    assert made.tokens.shape == expected.shape == (3, 1 + (SIDE // 8) ** 2, 16)
    assert np.abs(made.tokens - expected).max() < 1e-5


def test_a_resnet_is_averaged_to_the_grid_that_is_asked_for(folders):
    made = extracted(ResNet(weights=folders["resnet"], grid=2).build(PLACE), images())
    expected = torch.nn.functional.adaptive_avg_pool2d(theirs(folders["resnet"]), 2).flatten(2).transpose(1, 2)
    assert made.tokens.shape == (3, 4, 16)
    assert np.abs(made.tokens - expected.numpy()).max() < 1e-5


def test_boxes_say_where_in_the_whole_image_a_cell_lies(folders):
    # The processor scales the shorter side to 27 and cuts out 24: of 64 x 31, 12/27 x 24/55.
    made = extracted(ResNet(weights=folders["resnet"], grid=2).build(PLACE), [images()[1]])
    assert made.boxes is not None
    left, top, right, bottom, area = made.boxes[0, 0]
    assert left == pytest.approx(1 / 27, abs=1e-6)
    assert right - left == pytest.approx(12 / 27, abs=1e-6)
    assert bottom - top == pytest.approx(12 / 55, abs=1e-6)
    assert top == pytest.approx(15 / 55, abs=1e-6)
    assert area == pytest.approx((right - left) * (bottom - top), abs=1e-6)


def test_cells_that_show_black_margins_are_cut_at_the_edges_of_the_image():
    boxes = cells(1, 2, [(-0.5, 0.0, 1.5, 1.0)], whole=True)[0]
    assert boxes.tolist() == [[0, 0, 1, 1, 1], [0, 0, 0.5, 1, 0.5], [0.5, 0, 1, 1, 0.5]]


def test_an_image_alone_gives_what_it_gives_in_a_batch(folders):
    extractor = ResNet(weights=folders["resnet"]).build(PLACE)
    together = extracted(extractor, images())
    alone = np.concatenate([extracted(extractor, [image]).tokens for image in images()])
    assert np.abs(together.tokens - alone).max() < 1e-5


def test_states_of_texts_are_those_of_transformers_and_padding_is_masked(folders):
    from transformers import AutoTokenizer, T5EncoderModel

    texts = ["a cat", "look how many people love you", "not the red dog"]
    made = extracted(T5(weights=folders["t5"]).build(PLACE), texts)
    tokenizer, network = AutoTokenizer.from_pretrained(folders["t5"]), T5EncoderModel.from_pretrained(folders["t5"])
    assert made.mask is not None
    assert not made.tokens[~made.mask].any()
    for row, text in enumerate(texts):
        with torch.inference_mode():
            expected = network.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        assert made.mask[row].sum() == len(expected)
        assert np.abs(made.tokens[row, : len(expected)] - expected).max() < 1e-5


def test_texts_are_cut_to_the_length_that_is_asked_for(folders):
    extractor = T5(weights=folders["t5"]).build(Place(device=torch.device("cpu"), length=4))
    made = extracted(extractor, ["look how many people love you"])
    assert made.tokens.shape[:2] == (1, 4)
    assert extractor.identity != T5(weights=folders["t5"]).build(PLACE).identity


def test_another_kind_of_model_is_refused(folders):
    with pytest.raises(ConfigError, match="needs a model of kind resnet, but it is of kind dinov2"):
        ResNet(weights=folders["dinov2"]).build(PLACE)
    with pytest.raises(ConfigError, match="reads pixel_values, so that it cannot encode texts"):
        T5(weights=folders["resnet"]).build(PLACE)


def test_what_tokens_depend_on_is_in_the_identity(folders):
    one = ResNet(weights=folders["resnet"]).build(PLACE).identity
    assert ResNet(weights=folders["resnet"]).build(PLACE).identity == one
    assert ResNet(weights=folders["resnet"], grid=2).build(PLACE).identity != one
    half = Place(device=torch.device("cpu"), dtype=torch.bfloat16)
    assert ResNet(weights=folders["resnet"]).build(half).identity != one


def test_lower_precision_gives_nearly_the_same_tokens(folders):
    half = Place(device=torch.device("cpu"), dtype=torch.bfloat16)
    full, low = (extracted(CLIP(weights=folders["clip"]).build(place), images()).tokens for place in (PLACE, half))
    assert 0 < np.abs(full - low).max() < 0.2
