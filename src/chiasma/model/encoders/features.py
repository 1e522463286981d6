"""An adapter on ready-made tokens."""

from typing import Literal

from pydantic import Field

from chiasma.core.spec import Spec


class Features(Spec):
    """A small adapter on tokens that a frozen encoder made.

    Attributes:
        norm: Normalise each token first; without it and without ``hidden`` the adapter is linear.
        hidden: Width of a hidden layer; None for a linear map.
        dropout: Probability of zeroing an input feature.
        positions: Add a learned vector for each place.
    """

    kind: Literal["features"] = "features"
    norm: bool = True
    hidden: int | None = Field(None, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    positions: bool = False
