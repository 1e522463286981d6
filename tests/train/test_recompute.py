"""Recomputing activations: less memory, the same bits."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from chiasma.adapt.callbacks import callbacks_of
from chiasma.core.rng import seed_torch
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.model.blocks import TransformerBlock
from chiasma.model.fusion.alternating import AlternatingBlock
from chiasma.model.memory import pass_memory
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from chiasma.model.recompute import recompute_activations
from chiasma.model.trunk import Place, Population
from chiasma.model.trunk.member import Member
from chiasma.train.design import Design
from chiasma.train.trainer import Fit, Trainer
from tests.contracts.inputs import batch, signature

TRUNK = {
    "kind": "population",
    "members": {
        "perceptron_1": {"member": {"kind": "perceptron"}},
        "transformer_1": {"member": {"kind": "transformer", "dropout": 0.3}},
        "residual_convolution_1": {"member": {"kind": "residual_convolution"}},
    },
}
FUSIONS = {
    "alternating": {"kind": "alternating", "dropout": 0.3},
    "early": {"kind": "early", "dropout": 0.3},
    "cross-attention": {"kind": "cross_attention", "dropout": 0.3},
    "an attention graph": {"kind": "alternating", "dropout": 0.3, "attention": {"kind": "graph"}},
}


def spec(fusion: str) -> ModelSpec:
    return ModelSpec.from_dict(
        {
            "dim": 16,
            "encoders": {
                "image": {"kind": "vit", "grid": 4, "dropout": 0.3},
                "text": {"kind": "bert", "dropout": 0.3},
            },
            "fusion": FUSIONS[fusion],
            "trunk": TRUNK,
        }
    )


def built(model: ModelSpec, *, recompute: bool) -> MultimodalModel:
    torch.manual_seed(0)
    built = model.build(signature())
    recompute_activations(built, recompute)
    return built


def passed(model: ModelSpec, *, recompute: bool, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """Return the loss and all gradients of one step with dropout, and the generator's state after it."""
    module = built(model, recompute=recompute).train()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        output = module(batch(signature(), absent={"image": [1], "text": [2]}))
    loss = output.logits.square().sum() + output.penalty
    loss.backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(module.parameters()))
    return [loss.detach(), *gradients, torch.get_rng_state()]


def calls(module: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> Callable[[], int]:
    """Return a function that says how often modules of some kinds were called since."""
    seen: list[nn.Module] = []
    for part in module.modules():
        if isinstance(part, kind):
            part.register_forward_pre_hook(lambda part, _: seen.append(part))
    return lambda: len(seen)


@pytest.mark.parametrize(
    ("fusion", "dtype"), [*((fusion, None) for fusion in FUSIONS), (next(iter(FUSIONS)), torch.bfloat16)]
)
def test_loss_gradients_and_random_numbers_are_the_same_bits_with_dropout_on(fusion: str, dtype: torch.dtype | None):
    kept, recomputed = (passed(spec(fusion), recompute=recompute, dtype=dtype) for recompute in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_block_and_every_member_is_computed_twice(fusion: str):
    blocks = (TransformerBlock, AlternatingBlock, Member)
    counts = []
    for recompute in (False, True):
        module = built(spec(fusion), recompute=recompute)
        count = calls(module, blocks)
        module(batch(signature())).logits.sum().backward()
        counts.append(count())
    assert counts[1] == 2 * counts[0] > 0


def test_nothing_is_computed_twice_without_gradients():
    module = built(spec("early"), recompute=True)
    count = calls(module, Member)
    with torch.no_grad():
        module(batch(signature()))
    assert count() == len(TRUNK["members"])


def test_a_member_that_is_born_later_is_recomputed_too():
    module = built(spec("early"), recompute=True).train()
    assert isinstance(module.trunk, Population)
    newcomer = Place.from_dict({"member": {"kind": "perceptron"}, "role": "newcomer"})
    module.trunk.add("perceptron_2", newcomer)
    count = calls(module.trunk.members["perceptron_2"], Member)
    module(batch(signature())).logits.sum().backward()
    assert count() == 2


def test_less_is_kept_for_the_backward_pass_in_every_part():
    kept, recomputed = (
        pass_memory(spec("alternating"), signature(), rows=8, recompute=recompute).stored for recompute in (False, True)
    )
    parts = ("image", "text", "fusion", "trunk")
    assert [name for name in parts if recomputed[name] > 0.7 * kept[name]] == []


def fit(design: Design, data: Dataset, **arguments) -> Fit:
    callbacks = callbacks_of(design, data, seed=0)
    return Trainer(design, data, device="cpu", callbacks=callbacks, **arguments).fit()


def test_a_training_with_accumulation_averages_and_births_ends_with_the_same_bits(claims: Dataset):
    growing = Design.from_dict(
        {
            "model": {**spec("alternating").to_dict(), "dim": 8},
            "training": {
                "loop": {
                    "epochs": 2,
                    "batch_size": 64,
                    "accumulation": 4,
                    "ema": 0.9,
                    "evaluations": 4,
                    "restore_best": False,
                },
                "growth": {"births": "random", "probation": 1, "learned": 0.0},
            },
        }
    )
    seed_torch(5, "elsewhere")
    kept, recomputed = (
        fit(replace_at(growing, "training.loop.recompute", recompute), claims) for recompute in (False, True)
    )
    assert kept.history == recomputed.history
    assert kept.callbacks == recomputed.callbacks
    assert any(event["event"] == "birth" for event in kept.callbacks["growth"]["events"])
    assert kept.model.spec == recomputed.model.spec
    for a, b in zip(kept.model.state_dict().values(), recomputed.model.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
