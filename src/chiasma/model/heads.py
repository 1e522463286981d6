"""Heads."""

from typing import Annotated, Literal

from pydantic import Field

from chiasma.core.spec import Spec


class HeadSettings(Spec):
    """What every head has.

    Attributes:
        hidden: Width of a hidden layer; None for a linear head.
        dropout: Probability of zeroing a feature before each linear map.
    """

    hidden: int | None = Field(None, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class Classification(HeadSettings):
    """One class out of C."""

    kind: Literal["classification"] = "classification"


class Multilabel(HeadSettings):
    """Any subset of C labels."""

    kind: Literal["multilabel"] = "multilabel"


class Regression(HeadSettings):
    """C real numbers."""

    kind: Literal["regression"] = "regression"


HeadSpec = Annotated[Classification | Multilabel | Regression, Field(discriminator="kind")]
