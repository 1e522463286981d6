"""What a pass takes, told from shapes."""

from typing import Any

import pytest
import torch

from chiasma.core.spec import replace_at
from chiasma.data.batch import Output
from chiasma.model.components import members
from chiasma.model.fusion import Generated
from chiasma.model.memory import UntraceableError, at_the_very_most, pass_memory
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from tests.contracts.inputs import REGIONS, batch, signature

BASE = ModelSpec.from_dict(
    {
        "dim": 16,
        "encoders": {"image": {"kind": "vit", "grid": 4, "depth": 1}, "text": {"kind": "bert", "depth": 1}},
        "fusion": {"kind": "early", "depth": 1},
        "trunk": {"kind": "population", "members": {"only": {"member": {"kind": "perceptron"}}}},
    }
)


def kinds(part: str) -> list[str]:
    # Source is followed where it may run: tests/model/test_generated.py.
    return [member.model_fields["kind"].default for member in members(part) if member is not Generated]


@pytest.mark.parametrize(
    ("path", "kind"),
    [("fusion", kind) for kind in kinds("fusion")]
    + [("fusion.attention", kind) for kind in kinds("attention")]
    + [("trunk.members.only.member", kind) for kind in kinds("member")]
    + [("encoders.text", kind) for kind in ("bert", "ngram")]
    + [("encoders.image", kind) for kind in ("vit", "convolution", "pixels")],
)
def test_every_kind_of_part_is_followed(path: str, kind: str):
    spec = replace_at(BASE, path, {"kind": kind})
    found = pass_memory(spec, signature(), rows=3, precision=torch.bfloat16)
    model = spec.build(signature())
    assert found.weights == sum(4 * value.numel() for value in model.state_dict().values())
    assert {"image", "text", "fusion", "trunk", "head"} <= set(found.stored)
    assert found.most >= sum(found.stored.values())
    assert found.most < at_the_very_most(spec, signature(), rows=3)


def test_ready_made_tokens_are_followed():
    spec = ModelSpec.from_dict({"dim": 16, "encoders": {"image": {"kind": "features"}}})
    found = pass_memory(spec, signature(image=REGIONS), rows=3)
    assert found.inputs == 3 * REGIONS.count * (4 * REGIONS.dim + 1 + 4 * 5)


def saved_bytes(model: MultimodalModel, precision: torch.dtype | None) -> int:
    """Return the bytes of all storages that a real forward pass saves for the backward pass, but for the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        output = model(batch(signature()))
    assert output.logits.requires_grad
    return sum(storage.nbytes() for place, storage in saved.items() if place not in weights)


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"fusion": {"kind": "alternating"}}, {"encoders.image": {"kind": "convolution"}}, {"dim": 64}],
    ids=lambda changes: "-".join(changes) or "base",
)
def test_what_is_stored_is_what_a_real_pass_saves(changes: dict[str, Any], precision: torch.dtype | None):
    spec = BASE
    for path, value in changes.items():
        spec = replace_at(spec, path, value)
    told = pass_memory(spec, signature(), rows=5, precision=precision or torch.float32)
    saved = saved_bytes(spec.build(signature()).train(), precision)
    assert 0.9 < sum(told.stored.values()) / saved < 1.2


def test_twice_the_rows_store_twice_as_much():
    one, two = (sum(pass_memory(BASE, signature(), rows=rows).stored.values()) for rows in (64, 128))
    assert 1.9 < two / one < 2.1


def test_a_look_without_learning_stores_nothing_and_has_no_gradients():
    found = pass_memory(BASE, signature(), rows=8, learning=False)
    assert (found.stored, found.gradients) == ({}, 0)
    assert found.most < pass_memory(BASE, signature(), rows=8).most


class Peeking(ModelSpec):
    """A model that decides by what it sees."""

    def build(self, signature: Any) -> MultimodalModel:
        model = super().build(signature)
        assert model.head is not None

        def look(_module: object, _inputs: object, output: Output) -> None:
            assert float(output.logits.sum()) < 1e9

        model.head.register_forward_hook(look)
        return model


def test_a_part_that_needs_contents_is_named_as_the_reason():
    with pytest.raises(UntraceableError, match="a part of the model needs to see contents"):
        pass_memory(Peeking.from_dict(BASE.to_dict()), signature(), rows=2)


def test_a_part_that_looks_at_contents_while_it_is_built_is_told_of(monkeypatch: pytest.MonkeyPatch):
    def build(spec: ModelSpec, seen: Any) -> MultimodalModel:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(ModelSpec, "build", build)
    with pytest.raises(UntraceableError, match=r"a part cannot be built without contents \(RuntimeError: Tensor.item"):
        at_the_very_most(BASE, signature(), rows=3)
