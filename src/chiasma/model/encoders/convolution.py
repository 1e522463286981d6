"""A small convolutional network."""

from typing import Literal

from pydantic import Field

from chiasma.core.spec import Spec


class Convolution(Spec):
    """A small convolutional network from scratch.

    Attributes:
        widths: Channels of each stage.
        grid: Stages halve the map until neither side is larger than this, so tokens are at most its square.
        kernel: Side of each filter; odd.
        residuals: Residual convolutions in each stage after its first one.
        pool: Return each place of the map as a token, their mean, or one learned linear map of all places.
        positions: Add a learned vector for each place.
    """

    kind: Literal["convolution"] = "convolution"
    widths: tuple[int, ...] = Field((16, 32, 64), min_length=1)
    grid: int = Field(8, ge=1)
    kernel: int = Field(3, ge=1)
    residuals: int = Field(0, ge=0)
    pool: Literal["none", "mean", "flatten"] = "none"
    positions: bool = True
