"""Detectors on tiny checkpoints in the published layouts."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from chiasma.core.errors import ConfigError
from chiasma.model.encoders.extractor import Place
from chiasma.model.encoders.extractors import DETR, FasterRCNN, FasterRCNNVG
from chiasma.model.encoders.extractors.regions import Proposals, RegionSettings, select
from tests.published_detectors import (
    COCO_SMALL,
    GENOME_SMALL,
    coco_state,
    genome_state,
    save_coco,
    save_detr,
    save_genome,
)

PLACE = Place(device=torch.device("cpu"))
SMALL_IMAGES = 96, 160


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("detectors")
    return {
        "coco": save_coco(root / "v2.pth"),
        "old coco": save_coco(root / "v1.pth", second=False),
        "genome": save_genome(root / "vg.pth"),
    }


@pytest.fixture(autouse=True)
def _small_images(monkeypatch):
    """Let the detectors look at images a tenth as large."""
    from chiasma.model.encoders.extractors import coco, visual_genome

    for module in (coco, visual_genome):
        monkeypatch.setattr(module, "SHORTEST", SMALL_IMAGES[0])
        monkeypatch.setattr(module, "LONGEST", SMALL_IMAGES[1])


def image(height: int = 60, width: int = 90, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def build(name, files):
    if name == "genome":
        return FasterRCNNVG(weights=str(files[name]), regions=12, **GENOME_SMALL).build(PLACE)
    return FasterRCNN(weights=str(files[name]), regions=12, **COCO_SMALL).build(PLACE)


@pytest.mark.parametrize(("name", "dim"), [("coco", 8), ("old coco", 8), ("genome", 128)])
def test_regions_come_with_boxes_in_parts_of_the_image_and_padding_is_masked(files, name, dim):
    extractor = build(name, files)
    made = extractor.encode([extractor.prepare(image())])
    assert made.tokens.shape == (1, 12, dim)
    assert made.mask is not None
    assert made.boxes is not None
    assert 10 <= made.mask.sum() <= 12
    boxes = made.boxes[made.mask]
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert (boxes[:, 2:4] > boxes[:, :2]).all()
    assert np.allclose(boxes[:, 4], (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), atol=1e-6)
    assert len(np.unique(made.tokens[made.mask].round(4), axis=0)) > 1
    assert not made.tokens[~made.mask].any()
    assert not made.boxes[~made.mask].any()


@pytest.mark.parametrize("name", ["coco", "genome"])
def test_an_image_alone_gives_what_it_gives_among_others_of_any_size(files, name):
    extractor = build(name, files)
    images = [image(), image(80, 70, seed=1), image(seed=2)]
    together = extractor.encode([extractor.prepare(each) for each in images])
    for place, each in enumerate(images):
        alone = extractor.encode([extractor.prepare(each)])
        assert np.abs(alone.tokens[0] - together.tokens[place]).max() < 1e-4
        assert np.abs(alone.boxes[0] - together.boxes[place]).max() < 1e-4


def proposals(scores, boxes):
    scores = torch.tensor(scores)
    boxes = torch.tensor(boxes, dtype=torch.float32)[:, None].expand(-1, scores.shape[1], -1)
    return Proposals(torch.arange(len(scores)).float()[:, None], scores, boxes)


FAR = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [80, 0, 90, 10]]


def test_a_region_suppresses_others_of_its_class_alone():
    said = proposals([[0.9, 0.0], [0.8, 0.0], [0.1, 0.6], [0.0, 0.1]], FAR)
    chosen, boxes = select(said, RegionSettingsForTests(regions=4, least=1, overlap=0.5))
    assert chosen.tolist() == [0, 2]
    assert boxes[1].tolist() == [50, 50, 60, 60]
    other = proposals([[0.9, 0.0], [0.0, 0.8], [0.1, 0.6], [0.0, 0.1]], FAR)
    assert select(other, RegionSettingsForTests(regions=4, least=1, overlap=0.5))[0].tolist() == [0, 1, 2]


def test_at_least_so_many_regions_are_kept_the_best_of_the_rest_last():
    said = proposals([[0.9, 0.0], [0.8, 0.0], [0.1, 0.6], [0.0, 0.1]], FAR)
    assert select(said, RegionSettingsForTests(regions=4, least=4, overlap=0.5))[0].tolist() == [0, 2, 1, 3]
    assert select(said, RegionSettingsForTests(regions=1, least=1, overlap=0.5))[0].tolist() == [0]


class RegionSettingsForTests(RegionSettings):
    """The settings without a detector."""

    def build(self, place):
        raise AssertionError(place)


def test_fewer_regions_than_usual_need_no_second_setting():
    assert RegionSettingsForTests(regions=5).least == 5
    with pytest.raises(ValueError, match="least must not be above regions, but least=9 and regions=5"):
        RegionSettingsForTests(regions=5, least=9)


def _without(state, name):
    return {key: value for key, value in state.items() if key != name}


class Marker:
    """Would make a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: _without(s, "RCNN_base.6.0.conv2.weight"), r"missing: RCNN_base\.6\.0\.conv2\.weight\."),
        (lambda s: s | {"RCNN_top.0.1.conv1.weight": torch.ones(2)}, r"too much: RCNN_top\.0\.1\.conv1\.weight\."),
        (
            lambda s: s | {"RCNN_cls_score.bias": torch.ones(9)},
            r"other shapes: RCNN_cls_score\.bias is \[9\] instead of \[7\]\.",
        ),
        (lambda s: coco_state(second=True), r"missing: RCNN_base\..* and \d+ more; too much: backbone\."),
        (lambda s: {"model": 3}, "must be strided tensors by name, but the file holds something else"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_differs(tmp_path, spoil, message):
    torch.save(spoil(genome_state()), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=message) as caught:
        FasterRCNNVG(weights=str(tmp_path / "w.pth"), **GENOME_SMALL).build(PLACE)
    assert "\n" not in str(caught.value)


def test_another_depth_or_width_is_refused(files):
    with pytest.raises(ConfigError, match=r"missing: RCNN_base\.4\.1\.bn1\.bias.* and \d+ more"):
        FasterRCNNVG(weights=str(files["genome"]), **GENOME_SMALL | {"depths": [2, 1, 1, 1]}).build(PLACE)
    with pytest.raises(ConfigError, match=r"other shapes: RCNN_base\.0\.weight is \[4, 3, 7, 7\] instead of \[8, 3"):
        FasterRCNNVG(weights=str(files["genome"]), **GENOME_SMALL | {"width": 8}).build(PLACE)
    with pytest.raises(ConfigError, match=r"are not those of torchvision's Faster R-CNN"):
        FasterRCNN(weights=str(files["genome"]), **COCO_SMALL).build(PLACE)


def test_a_truncated_file_and_one_with_code_are_refused_and_nothing_runs(files, tmp_path):
    marker = tmp_path / "executed"
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"model": Marker(str(marker))}))
    torch.save({"model": genome_state(), "hook": Marker(str(marker))}, tmp_path / "hidden.pth")
    data = files["genome"].read_bytes()
    (tmp_path / "half.pth").write_bytes(data[: len(data) // 2])
    for name in ("code.pth", "hidden.pth", "half.pth"):
        with pytest.raises(ConfigError, match=f"{name} are damaged, or a pickle of more than tensors"):
            FasterRCNNVG(weights=str(tmp_path / name), **GENOME_SMALL).build(PLACE)
    assert not marker.exists()


def test_a_missing_file_says_where_it_can_be_had():
    with pytest.raises(ConfigError, match=r"res101_vg\.pth are not here.*drive\.google\.com.*--weights FILE"):
        FasterRCNNVG().build(PLACE)
    with pytest.raises(ConfigError, match=r"v2_coco-dd69338a\.pth are not here.*download\.pytorch\.org"):
        FasterRCNN().build(PLACE)


def test_the_file_says_how_regions_are_cut_out(tmp_path):
    tokens = {}
    for pooling in ("align", "pool"):
        path = save_genome(tmp_path / f"{pooling}.pth", pooling=pooling)
        extractor = FasterRCNNVG(weights=str(path), **GENOME_SMALL).build(PLACE)
        tokens[pooling] = extractor.encode([extractor.prepare(image())]).tokens
    assert not np.allclose(tokens["align"], tokens["pool"])
    path = save_genome(tmp_path / "crop.pth", pooling="crop")
    with pytest.raises(ConfigError, match="pooling_mode=crop, but only align and pool are known"):
        FasterRCNNVG(weights=str(path), **GENOME_SMALL).build(PLACE)


@pytest.fixture(scope="module")
def detr(tmp_path_factory):
    return save_detr(tmp_path_factory.mktemp("detr"))


def images_for_detr() -> list[Image.Image]:
    return [image(), image(50, 160, seed=1), image(300, 61, seed=2), image(seed=3)]


def test_states_of_queries_are_those_of_transformers_though_the_names_are_timms(detr):
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, DetrForObjectDetection

    names = load_file(detr / "model.safetensors")
    assert any("layer2.1.conv3.weight" in name for name in names)
    assert any("layer2.0.downsample.1.running_mean" in name for name in names)
    extractor = DETR(weights=str(detr), regions=7).build(PLACE)
    prepared = [extractor.prepare(each) for each in images_for_detr()]
    made = extractor.encode(prepared)
    assert made.tokens.shape == (4, 7, 16)
    processor = AutoImageProcessor.from_pretrained(detr, backend="pil")
    for place, each in enumerate(images_for_detr()):
        theirs = processor(each, return_tensors="pt")
        assert theirs["pixel_values"].shape[2:] == prepared[place].shape[1:]
        assert (theirs["pixel_values"][0] - prepared[place]).abs().max() < 1e-5
        network: DetrForObjectDetection = extractor.network
        with torch.inference_mode():
            seen = network(**theirs)
        order = seen.logits[0].softmax(-1)[:, :-1].amax(-1).argsort(descending=True)
        assert np.abs(made.tokens[place] - seen.last_hidden_state[0, order].numpy()).max() < 1e-4
        x, y, width, height = seen.pred_boxes[0, order[0]].tolist()
        expected = np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0, 1)
        assert np.allclose(made.boxes[place, 0, :4], expected, atol=1e-5)


def test_every_weight_of_the_backbone_arrives(detr, tmp_path):
    """The converted network is the one that was saved: transformers' names give the same states."""
    from safetensors.torch import load_file, save_file

    from chiasma.model.encoders.extractors.detr import transformers_name

    own = tmp_path / "own"
    own.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (own / name).write_bytes((detr / name).read_bytes())
    weights = load_file(detr / "model.safetensors")
    renamed = {transformers_name(name): value for name, value in weights.items()}
    assert len(renamed) == len(weights)
    assert sum(name not in weights for name in renamed) > 30
    save_file(renamed, own / "model.safetensors")
    made = []
    for folder in (detr, own):
        extractor = DETR(weights=str(folder), regions=5).build(PLACE)
        made.append(extractor.encode([extractor.prepare(image())]).tokens)
    assert np.array_equal(*made)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: _without(w, "model.backbone.model.layer3.0.conv2.weight"), "lack model.backbone"),
        (lambda w: w | {"model.backbone.model.layer4.1.conv1.weight": torch.ones(2)}, "hold more than its config"),
        (lambda w: w | {"bbox_predictor.layers.0.bias": torch.ones(3)}, r"\[3\] instead of \[16\]"),
    ],
)
def test_a_detr_that_is_not_what_its_configuration_says_is_refused(detr, tmp_path, spoil, message):
    from safetensors.torch import load_file, save_file

    weights = load_file(detr / "model.safetensors")
    weights = {name.replace("conv_encoder.", ""): value for name, value in weights.items()}
    assert "model.backbone.model.layer3.0.conv2.weight" in weights
    (tmp_path / "config.json").write_bytes((detr / "config.json").read_bytes())
    save_file(spoil(weights), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=message):
        DETR(weights=str(tmp_path), regions=5).build(PLACE)


def test_a_backbone_by_timms_name_is_known_or_refused(detr, tmp_path):
    import json

    from chiasma.model.encoders.extractors.detr import read_detr

    config = json.loads((detr / "config.json").read_text())
    del config["backbone_config"]
    for name, known in (("resnet50", True), ("mobilenetv3", False)):
        (tmp_path / "config.json").write_text(json.dumps({**config, "backbone": name, "use_timm_backbone": True}))
        if known:
            assert read_detr(tmp_path, name="x").backbone_config.depths == (3, 4, 6, 3)
        else:
            with pytest.raises(ConfigError, match="its backbone is mobilenetv3, but only resnet50 and resnet101"):
                read_detr(tmp_path, name="x")
    with pytest.raises(ConfigError, match="has 7 queries, but regions=100"):
        DETR(weights=str(detr)).build(PLACE)
