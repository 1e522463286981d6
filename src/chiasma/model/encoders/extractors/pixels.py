"""Shrunken pictures in patches: no weights, a floor for every other extractor."""

from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from chiasma.data.boxes import Window, cells
from chiasma.data.feature_store import Encoded
from chiasma.data.image import fitted
from chiasma.model.encoders.extractor import Extractor, ExtractorSettings, Identity, Place, Reads


class PixelsExtractor(Extractor):
    """Cut a shrunken picture into patches.

    Args:
        spec: Sizes of picture and patch.
    """

    def __init__(self, spec: "Pixels") -> None:
        self.spec = spec

    @property
    def identity(self) -> Identity:
        """Return its sizes; there are no weights."""
        return Identity(f"pixels {self.spec.side} in patches of {self.spec.patch}", "", "pad")

    def prepare(self, content: Image.Image | str) -> Any:
        """Return a square picture with black margins, and what it shows of the image."""
        assert isinstance(content, Image.Image)
        side = self.spec.side
        return fitted(content, height=side, width=side, fit="pad"), _padded(content.height, content.width)

    def encode(self, prepared: list[Any]) -> Encoded:
        """Return a token for each patch, in 0..1."""
        count, patch = self.spec.side // self.spec.patch, self.spec.patch
        pictures = np.stack([pixels for pixels, _ in prepared]) / 255.0
        split = pictures.reshape(len(prepared), 3, count, patch, count, patch).transpose(0, 2, 4, 1, 3, 5)
        tokens = split.reshape(len(prepared), count * count, 3 * patch * patch)
        return Encoded(tokens, boxes=cells(count, count, [window for _, window in prepared]))


def _padded(height: int, width: int) -> Window:
    """Return what a square with margins shows, in parts of the image."""
    long = max(height, width)
    x, y = (long / width - 1) / 2, (long / height - 1) / 2
    return -x, -y, 1 + x, 1 + y


class Pixels(ExtractorSettings):
    """Shrunken pictures in patches, without any network.

    Attributes:
        side: Height and width of the shrunken picture in pixels.
        patch: Height and width of a patch.
    """

    reads: ClassVar[Reads] = "image"
    batch_size: ClassVar[int] = 256

    kind: Literal["pixels"] = "pixels"
    side: int = Field(default=16, ge=2, le=256)
    patch: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _patches_fill_the_side(self) -> "Pixels":
        if self.side % self.patch:
            raise ValueError(f"side must be divisible by patch, but side={self.side} and patch={self.patch}")
        return self

    def build(self, place: Place) -> Extractor:
        """Return the extractor; it always computes on the CPU."""
        return PixelsExtractor(self)
