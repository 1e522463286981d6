"""Linear on pixels."""

from typing import Literal

from pydantic import Field

from chiasma.core.spec import Spec


class Pixels(Spec):
    """One linear map of the shrunken image: the linear floor of images; one token.

    Attributes:
        size: The image is averaged down to at most this many pixels a side.
    """

    kind: Literal["pixels"] = "pixels"
    size: int = Field(16, ge=1)
