"""A vision transformer."""

from typing import Literal

from pydantic import Field

from chiasma.model.blocks import TransformerSpec


class ViT(TransformerSpec):
    """A vision transformer from scratch.

    Attributes:
        stem: Cut the image into patches, or let two convolutions find them.
        patch: Side of a patch in pixels.
        pool: Return all tokens, only a learned class token, or the mean.
    """

    kind: Literal["vit"] = "vit"
    stem: Literal["patch", "convolution"] = "patch"
    patch: int = Field(8, ge=1)
    pool: Literal["none", "cls", "mean"] = "none"
