"""Law 8 for the rules of growth and for the trunk: what each of their settings changes, without a training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from chiasma.adapt.growth import Growth
from chiasma.adapt.lifecycle import Life, contributions, review
from chiasma.adapt.measure import Measured
from chiasma.adapt.strategist import Birth, conceive
from chiasma.data.batch import Tokens
from chiasma.data.dataset import Dataset
from chiasma.model.trunk import Population, PopulationSpec
from chiasma.model.trunk.members import PerceptronSpec, TransformerMemberSpec
from chiasma.train.callbacks import Moment
from chiasma.train.design import GrowthSpec
from tests.adapt.test_growth import BIRTH, growing

DIM = 8
LIVES = tuple(
    Life(name=f"{kind}_1", kind=kind, promoted=0, gains=(gain,) * 4, errors=(0.001,) * 4, shares=(1.0,) * 4)
    for kind, gain in (("perceptron", 0.3), ("transformer", 0.2), ("residual_convolution", 0.001))
)
KNOWN = [
    life.model_copy(update={"contributions": (part,)}) for life, part in zip(LIVES, (0.5, 0.45, 0.05), strict=True)
]
NEWCOMER = Life(name="perceptron_2", kind="perceptron", role="newcomer", gains=(0.02,) * 2, errors=(0.004,) * 2)


@dataclass(frozen=True)
class Seen:
    """Two values of a setting, and what shows the difference.

    Attributes:
        values: Both values.
        of: Returns what is seen under the settings, which hold one of the values.
        base: Other settings that make the difference visible.
    """

    values: tuple[Any, Any]
    of: Callable[..., Any]
    base: Mapping[str, Any]


def seen(values: tuple[Any, Any], of: Callable[..., Any], **base: Any) -> Seen:
    """Return a setting's entry."""
    return Seen(values, of, base)


def decided(rules: GrowthSpec, data: Dataset) -> Any:
    """Return what should happen to three members, one of whom is useless."""
    return review(KNOWN, rules, progress=0.5, cooldown={})


def decided_on_newcomer(rules: GrowthSpec, data: Dataset) -> Any:
    """Return what should happen to a newcomer."""
    return review([*KNOWN, NEWCOMER], rules, progress=0.5, cooldown={})


def averaged(rules: GrowthSpec, data: Dataset) -> Any:
    """Return the contributions after one more review."""
    return contributions(KNOWN, rules)


def born(rules: GrowthSpec, data: Dataset) -> list[Birth]:
    """Return who is born, for twenty seeds."""
    spec = PopulationSpec()
    rng = np.random.default_rng(0)
    found = Measured(1.0, {}, {}, {}, (), (), rng.normal(size=(60, DIM)), rng.random(60), rng.random((60, 2)), 9)
    return [
        conceive(KNOWN, spec, found, rules, cooldown={}, dim=DIM, named=(), rng=np.random.default_rng(seed))
        for seed in range(20)
    ]


def reviewed(rules: GrowthSpec, data: Dataset) -> Any:
    """Return what growth asks for and remembers in one review of a fresh model with a newcomer, and one later."""
    torch.manual_seed(0)
    model = growing().model.build(data.signature)
    growth = Growth(rules, data, seed=0)
    growth.edit_model(model, BIRTH)
    growth.lives["perceptron_9"] = NEWCOMER.model_copy(update={"name": "perceptron_9", "gains": (), "errors": ()})
    first = growth.review(Moment(5, 100, 1.0, 0.7, 1.0, 1e-3, {"loss": 0.7}, (), model))
    return [str(action) for action in first], growth.state_dict()


def raised(rules: GrowthSpec, data: Dataset) -> Any:
    """Return what growth asks for where somebody is born: the birth, and the rate that it begins with."""
    torch.manual_seed(0)
    model = growing().model.build(data.signature)
    return Growth(rules, data, seed=0).review(Moment(5, 100, 1.0, 0.7, 1.0, 1e-3, {"loss": 0.7}, (), model))


RULES: dict[str, Seen] = {
    "births": seen(("guided", "none"), raised, learned=0.0),
    "largest": seen((3, 6), decided, worth=0.0),
    "smallest": seen((2, 3), decided),
    "memory": seen((0.2, 0.5), averaged),
    "worth": seen((0.0, 0.01), decided),
    "certainty": seen((2.0, 6.0), decided_on_newcomer),
    "probation": seen((2, 3), decided_on_newcomer),
    "longevity": seen((4, 5), decided),
    "cooldown": seen((1, 3), reviewed, learned=0.0, probation=1, longevity=1),
    "exploit": seen((0.0, 1.0), born),
    "temperature": seen((0.05, 10.0), born, exploit=1.0),
    "emphasis": seen((0.0, 1.0), born, exploit=1.0),
    "learned": seen((0.0, 0.9), raised),
    "warm_up": seen((1, 3), raised, learned=0.0),
    "last_birth": seen((0.4, 0.7), decided, worth=0.0),
    "lessons": seen((False, True), decided),
}
"""Every field of :class:`GrowthSpec`."""


def tokens() -> Tokens:
    """Return five rows of six tokens."""
    generator = torch.Generator().manual_seed(0)
    return Tokens(torch.randn(5, 6, DIM, generator=generator), torch.ones(5, 6, dtype=torch.bool))


def served(trunk: Population) -> Any:
    """Return what comes out in evaluation."""
    return trunk.eval()(tokens()).tokens.x.tolist()


def charged(trunk: Population) -> Any:
    """Return what is added to the loss while training, where somebody leaves; without dropout."""
    trunk.retire("perceptron_1")
    return trunk.train()(tokens()).penalty


_CALM = {
    "perceptron_1": {"member": PerceptronSpec(dropout=0.0).to_dict()},
    "transformer_1": {"member": TransformerMemberSpec(dropout=0.0).to_dict()},
}

TRUNK: dict[str, Seen] = {
    "members": seen(({"perceptron_1": _CALM["perceptron_1"]}, _CALM), served),
    "heads": seen((2, 4), served),
    "edges": seen((False, True), served),
    "routing": seen(("softmax", "sparsemax"), served),
    "serve_top": seen((None, 1), served),
    "entropy": seen((0.0, 0.5), charged, members=_CALM),
    "balance": seen((0.01, 0.5), charged, members=_CALM),
    "lesson": seen((0.5, 1.0), charged, members=_CALM),
}
"""Every field of :class:`PopulationSpec`."""
