"""Fusions of pooled vectors."""

from typing import Literal

from pydantic import Field

from chiasma.core.spec import Spec


class Concat(Spec):
    """Put the two vectors side by side.

    Attributes:
        hidden: Width of a hidden layer; None for a linear map.
    """

    kind: Literal["concat"] = "concat"
    hidden: int | None = Field(None, ge=1)


class Gated(Spec):
    """Weigh each feature of the two modalities with one learned gate."""

    kind: Literal["gated"] = "gated"


class Multiplicative(Spec):
    """Multiply the two projected vectors feature by feature.

    Attributes:
        width: Features of the product; None for dim.
        sums: Add the two factors to their product.
    """

    kind: Literal["multiplicative"] = "multiplicative"
    width: int | None = Field(None, ge=1)
    sums: bool = True


class Bilinear(Spec):
    """Low-rank bilinear pooling.

    Attributes:
        rank: Products that are summed into each feature.
    """

    kind: Literal["bilinear"] = "bilinear"
    rank: int = Field(4, ge=1)


class FiLM(Spec):
    """Let the text scale and shift the features of each image token.

    Attributes:
        depth: Modulated layers.
    """

    kind: Literal["film"] = "film"
    depth: int = Field(2, ge=1)
