import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.data.batch import Batch, Tokens
from chiasma.data.signature import Signature
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from tests.contracts.inputs import REGIONS, ROWS, TEXT, batch, signature


def spec(**changes: object) -> ModelSpec:
    parts = {
        "dim": 16,
        "encoders": {"image": {"kind": "convolution", "widths": [8, 8]}, "text": {"kind": "bert", "depth": 1}},
        "fusion": {"kind": "cross_attention", "depth": 1},
    }
    return ModelSpec.from_dict({**parts, **changes})


def built(design: ModelSpec, data: Signature | None = None, *, seed: int = 0) -> MultimodalModel:
    torch.manual_seed(seed)
    return design.build(data or signature()).eval()


def test_one_score_a_label_comes_out_and_the_model_knows_its_spec():
    model = built(spec())
    assert model(batch(signature())).logits.shape == (ROWS, 3)
    assert model.spec == spec()
    assert model.signature == signature()


def test_gradients_reach_all_parameters_from_the_pixels_to_the_head():
    model = built(spec()).train()
    model(batch(signature())).logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_tokens_may_be_encoded_once_and_fused_later():
    model = built(spec())
    data = batch(signature())
    assert torch.equal(model(model.encode(data)).logits, model(data).logits)


def test_one_encoder_needs_no_fusion():
    design = spec(encoders={"text": {"kind": "ngram"}}, fusion=None)
    model = built(design)
    assert model(batch(signature())).logits.shape == (ROWS, 3)
    assert "image" not in model.encode(batch(signature())).tokens


def test_ready_made_tokens_are_an_image_too():
    data = signature(image=REGIONS, text=TEXT)
    design = spec(encoders={"image": {"kind": "features"}, "text": {"kind": "bert"}})
    assert built(design, data)(batch(data)).logits.isfinite().all()


@pytest.mark.parametrize("noise", [1e9, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "image", [{"kind": "convolution"}, {"kind": "vit"}, {"kind": "pixels"}], ids=lambda x: x["kind"]
)
def test_what_lies_in_an_absent_image_changes_nothing(noise: float, image: dict[str, str]):
    model = built(spec(encoders={"image": image, "text": {"kind": "ngram"}}))
    clean = batch(signature(), absent={"image": [1, 3]})
    pixels = clean.inputs["image"].clone()
    pixels[[1, 3]] = noise
    dirty = Batch({**clean.inputs, "image": pixels}, clean.present, clean.ids)
    out = model(dirty).logits
    assert torch.equal(out, model(clean).logits)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_lies_in_an_absent_text_or_in_absent_tokens_changes_nothing():
    data = signature(image=REGIONS, text=TEXT)
    model = built(spec(encoders={"image": {"kind": "features"}, "text": {"kind": "bert"}}), data)
    clean = batch(data, absent={"image": [0], "text": [2]})
    ids = clean.inputs["text"].clone()
    ids[2] = 7
    regions = clean.inputs["image"]
    x = regions.x.clone()
    x[0] = float("nan")
    mask = regions.mask.clone()
    mask[0] = True
    dirty = Batch({"text": ids, "image": Tokens(x, mask, regions.boxes)}, clean.present, clean.ids)
    assert torch.equal(model(dirty).logits, model(clean).logits)


def test_a_row_without_anything_is_finite_and_leaves_the_others_alone():
    model = built(spec())
    some = model(batch(signature(), absent={"image": [2], "text": [2]})).logits
    assert some.isfinite().all()
    everything = model(batch(signature())).logits
    torch.testing.assert_close(some[[0, 1, 3, 4]], everything[[0, 1, 3, 4]], atol=1e-5, rtol=1e-5)


def test_the_order_of_encoders_in_the_spec_does_not_change_the_weights():
    parts = spec().to_dict()
    turned = ModelSpec.from_dict({**parts, "encoders": dict(reversed(list(parts["encoders"].items())))})
    data = batch(signature())
    assert torch.equal(built(spec())(data).logits, built(turned)(data).logits)


def test_a_spec_survives_json_and_builds_the_same_model():
    again = ModelSpec.from_json(spec().to_json())
    assert again == spec()
    assert torch.equal(built(again)(batch(signature())).logits, built(spec())(batch(signature())).logits)


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 32},
        {"head": {"kind": "classification", "hidden": 8}},
        {"fusion": {"kind": "gated"}},
        {"encoders": {"image": {"kind": "pixels"}, "text": {"kind": "bert", "depth": 1}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_no_knob_of_the_model_is_dead(changes: dict[str, object]):
    data = batch(signature())
    assert not torch.equal(built(spec(**changes))(data).logits, built(spec())(data).logits)


def test_heads_of_other_tasks_score_their_labels_too():
    for task in ("multilabel", "regression"):
        model = built(spec(head={"kind": task}), signature(task))
        assert model(batch(signature(task))).logits.shape == (ROWS, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": {}, "fusion": None}, "encoders must name at least one modality"),
        ({"fusion": None}, r"fusion must be given with more than one encoder, but encoders=\['image', 'text'\]"),
        ({"encoders": {"text": {"kind": "bert"}}}, r"fusion must be null with one encoder, but encoders=\['text'\]"),
        (
            {"encoders": {"text": {"kind": "bert"}, "sound": {"kind": "features"}}},
            r"fusion joins exactly the encoders \['image', 'text'\], but encoders=\['sound', 'text'\]",
        ),
        ({"dim": 18}, r"dim must be divisible by encoders.text.heads, but dim=18 and heads=4"),
        ({"fusion": {"kind": "early", "heads": 3}}, r"dim must be divisible by fusion.heads, but dim=16 and heads=3"),
        ({"dims": 16}, "dims: unknown key. Did you mean 'dim'"),
        ({"fusion": {"kind": "gatd"}}, "gatd"),
    ],
)
def test_an_impossible_spec_is_refused_with_the_rule_and_both_values(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        spec(**changes)


def test_a_modality_that_the_data_lacks_is_refused_with_a_suggestion():
    design = spec(encoders={"txt": {"kind": "bert"}}, fusion=None)
    with pytest.raises(ConfigError, match=r"encoders.txt: the data has no modality 'txt'. Did you mean 'text'\?"):
        design.build(signature())


def test_an_encoder_of_the_wrong_kind_is_refused_with_those_that_fit():
    design = spec(encoders={"text": {"kind": "convolution"}}, fusion=None)
    with pytest.raises(ConfigError, match=r"'convolution' does not read text inputs. Kinds that do: bert, ngram"):
        design.build(signature())


def test_a_head_for_another_task_is_refused():
    with pytest.raises(ConfigError, match="target's task 'regression', but it is 'classification'"):
        spec().build(signature("regression"))


def test_a_batch_without_a_modality_that_the_model_reads_is_refused():
    data = batch(signature())
    with pytest.raises(ValueError, match="The model reads 'image', but the batch has only: text"):
        built(spec())(Batch({"text": data.inputs["text"]}, data.present, data.ids))
