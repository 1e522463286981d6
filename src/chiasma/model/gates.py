"""Gates that scale and shift tokens, set from outside while a model trains and kept in its spec."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens

GatePlace = Literal["fusion", "trunk"]


class Gate(Spec):
    """Multiplies every feature and adds to it: ``scale * x + shift``.

    The idea is document 004's adaptive layer norm, whose scale is ``1 + 0.1 * a`` and whose shift ``0.1 * b``. Unlike
    there, a and b are two numbers for all features: they are found by trying, and hundreds cannot be.

    Attributes:
        scale: 1 leaves features as they are.
        shift: 0 leaves features as they are.
    """

    scale: float = Field(default=1.0, gt=0)
    shift: float = 0.0

    def apply(self, tokens: Tokens) -> Tokens:
        """Return the changed tokens; exactly the same ones where the gate is neutral."""
        if self.scale == 1.0 and self.shift == 0.0:
            return tokens
        return replace(tokens, x=self.scale * tokens.x + self.shift)


NEUTRAL = Gate()


def at(gates: Mapping[GatePlace, Gate], place: GatePlace) -> Gate:
    """Return the gate of a place; a neutral one where none stands."""
    return gates.get(place, NEUTRAL)
