"""What regulates a training from outside its design: scales of rates, weight decay and dropout, and gates."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import nn

from chiasma.core.spec import Spec
from chiasma.model.gates import Gate, GatePlace

# Above this, so few features are left that a step says little.
LARGEST_DROPOUT = 0.9


class Regulation(Spec):
    """Everything that a controller sets, all at once; the defaults change nothing.

    Attributes:
        rate: Every learning rate is multiplied by this, on top of the schedule and of what callbacks scale.
        rates: The same by part of the model: ``encoders``, ``fusion``, ``trunk``, ``head``; a part that is not named
            has 1.
        decay: The weight decay is multiplied by this.
        dropout: Every probability of dropout is multiplied by this; none exceeds 0.9.
        gates: What the fused tokens and the trunk's output go through; a place that is not named lets everything pass.
    """

    rate: float = Field(default=1.0, ge=0)
    rates: Mapping[str, Annotated[float, Field(ge=0)]] = {}
    decay: float = Field(default=1.0, ge=0)
    dropout: float = Field(default=1.0, ge=0)
    gates: Mapping[GatePlace, Gate] = {}

    def rate_of(self, name: str) -> float:
        """Return the scale of a parameter's rate; its part is the beginning of its name."""
        return self.rate * self.rates.get(name.partition(".")[0], 1.0)


NEUTRAL = Regulation()


class Dropouts:
    """The dropout of a model's modules, scaled together and always from what each was built with.

    Args:
        model: Whose modules.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own: dict[nn.Dropout, float] = {}
        self._factor = 1.0
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Follow an edit of the model: modules that are new have the dropout that they were built with."""
        there = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        self._own = {module: self._own.get(module, module.p) for module in there}
        self.scale(self._factor)

    def scale(self, factor: float) -> None:
        """Multiply the dropout that each module was built with."""
        self._factor = factor
        for module, own in self._own.items():
            module.p = own if factor == 1.0 else min(LARGEST_DROPOUT, own * factor)
