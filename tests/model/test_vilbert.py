"""ViLBERT equals a plain reference in both published layouts, obeys masks, and can be computed again."""

import json
from pathlib import Path

import pytest
import torch

from chiasma.data.batch import Batch, Tokens
from chiasma.data.signature import ImageInput, Signature, TextInput, TokensInput
from chiasma.experiment.compose import load_config
from chiasma.model.fusion.vilbert import ViLBERT, ViLBERTFusion
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from chiasma.model.published import load_published
from chiasma.model.recompute import recompute_activations
from tests.contracts.inputs import signature, spoiled, tokens
from tests.model.plain_vilbert import connection, vilbert
from tests.published_vilbert import FEATURE_WIDTH, save_tiny_vilbert, tiny_vilbert_settings

LAYOUTS = ("facebook", "community")
LENGTH, REGIONS = 7, 5


def of_layout(folder: Path, layout: str, **more) -> tuple[MultimodalModel, dict, dict]:
    """Return a model that has loaded a tiny checkpoint, the checkpoint and its configuration."""
    weights = save_tiny_vilbert(folder / layout, layout=layout)
    preset = {"facebook": "vilbert_facebook", "community": "vilbert"}[layout]
    config = load_config(preset, values=tiny_vilbert_settings(weights, layout=layout) | more)
    file = weights if weights.is_file() else weights / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    words = len(state["bert.embeddings.word_embeddings.weight"])
    data = signature(
        text=TextInput(vocabulary=words + 1, length=LENGTH, tokenizer="published"),
        image=TokensInput(count=REGIONS, dim=FEATURE_WIDTH, boxes=True),
    )
    torch.manual_seed(1)
    model = config.design(data).model.build(data).eval()
    load_published(model)
    return model, state, json.loads((file.parent / "bert_base_6layer_6conect.json").read_text())


@pytest.fixture(scope="module", params=LAYOUTS)
def loaded(request, tmp_path_factory) -> tuple[MultimodalModel, dict, dict]:
    return of_layout(tmp_path_factory.mktemp("vilbert"), request.param)


def rows(vocabulary: int) -> Batch:
    """Return three rows: full, with a short text, with few regions."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, vocabulary, (3, LENGTH), generator=generator)
    ids[1, 4:] = 0
    mask = torch.arange(REGIONS) < torch.tensor([[REGIONS], [REGIONS], [2]])
    x = torch.randn(3, REGIONS, FEATURE_WIDTH, generator=generator)
    boxes = torch.rand(3, REGIONS, 5, generator=generator)
    present = torch.ones(3, dtype=torch.bool)
    return Batch({"text": ids, "image": Tokens(x, mask, boxes)}, {"text": present, "image": present}, ("a", "b", "c"))


def with_whole(regions: Tokens) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features, boxes and mask with the whole image first, as the published reader of features adds it."""
    counts = regions.mask.sum(1, keepdim=True)
    mean = (regions.x * regions.mask[..., None]).sum(1) / counts
    x = torch.cat([mean[:, None], regions.x], dim=1)
    boxes = torch.cat([torch.tensor([0.0, 0, 1, 1, 1]).expand(len(x), 1, 5), regions.boxes], dim=1)
    return x, boxes, torch.cat([torch.ones(len(x), 1, dtype=torch.bool), regions.mask], dim=1)


def reference(batch: Batch, state: dict, config: dict):
    x, boxes, mask = with_whole(batch.inputs["image"])
    ids = batch.inputs["text"]
    own = (ids - 1).clamp(min=0)
    return vilbert(state, config, ids=own, regions=x, boxes=boxes, text=ids != 0, image=mask)


def test_the_streams_equal_a_plain_reference(loaded):
    model, state, config = loaded
    batch = rows(len(state["bert.embeddings.word_embeddings.weight"]))
    encoded = model.encode(batch).tokens
    seen, read = model.fusion.streams(encoded["image"], encoded["text"])
    words, places, *_ = reference(batch, state, config)
    torch.testing.assert_close(read.x[read.mask], words[read.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.x[seen.mask], places[seen.mask], atol=1e-5, rtol=1e-5)


def test_what_comes_out_equals_a_plain_reference(loaded):
    model, state, config = loaded
    batch = rows(len(state["bert.embeddings.word_embeddings.weight"]))
    *_, text, image = reference(batch, state, config)
    fused = model.fuse(model.encode(batch)).x[:, 0]
    torch.testing.assert_close(fused, text.relu() * image.relu(), atol=1e-5, rtol=1e-5)
    assert fused.abs().max() > 0.1


def test_co_attention_alone_equals_a_plain_reference(loaded):
    model, state, config = loaded
    join = model.fusion.joins[0]
    image = tokens(6, dim=config["v_hidden_size"], seed=3)
    text = tokens(5, dim=config["hidden_size"], seed=4)
    heads = config["bi_num_attention_heads"]
    seen, read = join(image, text)
    places, words = connection(state, "bert.encoder.c_layer.0", image.x, image.mask, text.x, text.mask, heads)
    torch.testing.assert_close(seen.x[seen.mask], places[seen.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.x[read.mask], words[read.mask], atol=1e-5, rtol=1e-5)


def test_the_sum_and_the_mean_of_regions_are_there_too(tmp_path):
    more = {"model.fusion.combine": "sum", "model.fusion.image_pool": "mean", "model.fusion.pooler": "tanh"}
    model, state, config = of_layout(tmp_path, "community", **more)
    batch = rows(len(state["bert.embeddings.word_embeddings.weight"]))
    _, places, text, _ = reference(batch, state, config)
    mask = with_whole(batch.inputs["image"])[2]
    mean = torch.stack([row[there].mean(0) for row, there in zip(places, mask, strict=True)])
    image = mean @ state["bert.v_pooler.dense.weight"].T + state["bert.v_pooler.dense.bias"]
    fused = model.fuse(model.encode(batch)).x[:, 0]
    torch.testing.assert_close(fused, text.tanh() + image.tanh(), atol=1e-5, rtol=1e-5)


def test_streams_have_their_own_widths_and_the_model_its_own():
    spec = ViLBERT.from_dict({"text": {"dim": 12, "heads": 3}, "image": {"dim": 20}, "heads": 2})
    assert spec.widths(8) == {"image": 20, "text": 12}
    fused = spec.build(8).eval()(tokens(4, dim=20), tokens(3, dim=12))
    assert fused.x.shape == (5, 1, 8)


def test_encoders_are_built_for_the_widths_of_the_streams():
    fusion = {"kind": "vilbert", "text": {"dim": 12, "heads": 3}, "image": {"dim": 20}}
    encoders = {"image": {"kind": "vit", "heads": 5, "grid": 2}, "text": {"kind": "bert", "heads": 3}}
    model = ModelSpec.from_dict({"dim": 16, "encoders": encoders, "fusion": fusion}).build(signature())
    assert model.encoders["image"].positions.table.shape[1] == 20
    assert model.encoders["text"].words.weight.shape[1] == 12


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"heads": 3}, "dim must be divisible by fusion.heads, but dim=16 and heads=3"),
        ({"text": {"dim": 10}}, "text.dim must be divisible by fusion.text.heads, but text.dim=10 and heads=4"),
        ({"text_joins": [3]}, r"text_joins must rise from 0 to text.depth=2, but are \(3,\)"),
        ({"image_joins": [0, 1]}, "text_joins and image_joins must be as many"),
        ({"fresh_image": True}, "fresh_image needs weights, but fresh_image=true and weights=null"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(settings, said):
    fusion = {"kind": "vilbert", **settings}
    encoders = {"image": {"kind": "regions"}, "text": {"kind": "words"}}
    with pytest.raises(ValueError, match=said):
        ModelSpec.from_dict({"dim": 16, "encoders": encoders, "fusion": fusion})


def test_texts_longer_than_there_are_places_are_refused():
    fusion = {"kind": "vilbert"}
    encoders = {"image": {"kind": "regions"}, "text": {"kind": "words", "positions": 6}}
    spec = ModelSpec.from_dict({"dim": 16, "encoders": encoders, "fusion": fusion})
    with pytest.raises(ValueError, match=r"positions=6, but the texts of the data have 7 ids: data\.text_length=6"):
        spec.check(signature())


def test_padding_inside_a_sequence_changes_nothing():
    torch.manual_seed(0)
    fusion = ViLBERT(text_joins=(1, 2), image_joins=(0, 1)).build(16).eval()
    image, text = tokens(6, seed=1), tokens(5, seed=2)
    holes = torch.tensor([False, True, False, True, True, True])
    image = Tokens(image.x, image.mask & holes)
    torch.testing.assert_close(fusion(spoiled(image, 7.0), text).x, fusion(image, text).x)
    shorter = Tokens(image.x[:, holes], image.mask[:, holes])
    some = shorter.present()
    torch.testing.assert_close(fusion(shorter, text).x[some], fusion(image, text).x[some])


def test_recomputed_layers_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        fusion = ViLBERT(dropout=0.3).build(16)
        assert isinstance(fusion, ViLBERTFusion)
        recompute_activations(fusion, recompute)
        torch.manual_seed(1)
        fusion(tokens(6, seed=1), tokens(5, seed=2)).x.square().sum().backward()
        gradients.append([parameter.grad for parameter in fusion.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def regions_of(encoder: dict, image: ImageInput | TokensInput, value: torch.Tensor | Tokens) -> Tokens:
    data: Signature = signature(image=image)
    torch.manual_seed(0)
    model = ModelSpec.from_dict({"dim": 16, "encoders": {"image": {"kind": "regions", **encoder}}}).build(data)
    return model.encoders["image"].eval()(value)


def test_the_cells_of_a_picture_are_regions_with_their_places():
    cells = {"cells": {"kind": "convolution", "grid": 4, "widths": [8]}}
    seen = regions_of(cells, ImageInput(channels=3, height=16, width=8), torch.rand(2, 3, 16, 8))
    assert seen.boxes is not None
    assert seen.x.shape == (2, 9, 16)
    assert seen.boxes[0, 0].tolist() == [0, 0, 1, 1, 1]
    assert seen.boxes[0, 1].tolist() == [0, 0, 0.5, 0.25, 0.125]
    assert seen.boxes[0, 4].tolist() == [0.5, 0.25, 1, 0.5, 0.125]


def test_tokens_without_boxes_lie_in_a_grid_where_the_settings_say_so():
    data = TokensInput(count=10, dim=6)
    seen = regions_of({"boxes": "grid", "whole": "first"}, data, tokens(10, dim=6))
    assert seen.boxes is not None
    assert seen.boxes.shape == (5, 10, 5)
    assert seen.boxes[0, 0].tolist() == [0, 0, 1, 1, 1]
    torch.testing.assert_close(seen.boxes[0, 9], torch.tensor([2 / 3, 2 / 3, 1, 1, 1 / 9]))


def test_only_so_many_regions_are_read():
    data, given = TokensInput(count=6, dim=10, boxes=False), tokens(6, dim=10)
    few = regions_of({"boxes": "none", "most": 2}, data, given)
    assert few.x.shape[1] == 3
    cut = Tokens(given.x[:, :2], given.mask[:, :2])
    same = regions_of({"boxes": "none"}, TokensInput(count=2, dim=10, boxes=False), cut)
    torch.testing.assert_close(few.x, same.x)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ({}, "boxes=given, but the feature file has no boxes. .*--set model.encoders.image.boxes=grid"),
        ({"boxes": "grid"}, "boxes=grid needs a square number of tokens, but the feature file has 10"),
    ],
)
def test_tokens_that_do_not_say_where_they_lie_are_refused(encoder, said):
    with pytest.raises(ValueError, match=said):
        regions_of(encoder, TokensInput(count=10, dim=6), tokens(10, dim=6))


def test_a_published_table_has_more_places_than_texts_have_words():
    torch.manual_seed(0)
    encoders = {"text": {"kind": "words", "positions": 9}}
    words = ModelSpec.from_dict({"dim": 16, "encoders": encoders}).build(signature()).encoders["text"]
    assert words.positions.weight.shape == (9, 16)
    assert words(torch.ones(2, 7, dtype=torch.int64)).x.shape == (2, 7, 16)
