"""How a published image processor brings an image of any size to one size, repeated pixel by pixel."""

import math
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from chiasma.core.spec import Spec

Resampling = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


class Framing(Spec):
    """Resize, then cut out the centre.

    Attributes:
        shortest: Length in pixels that the shorter side is scaled to; None where both sides are stretched.
        stretch: Height and width to stretch to; None where the shape is kept.
        crop: Height and width of the centre that is cut out, black where the image is smaller; None for all of it.
        resampling: Pillow's filter.
    """

    shortest: int | None = Field(default=None, ge=1)
    stretch: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    resampling: Resampling = "bicubic"

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of every result."""
        size = self.crop or self.stretch
        assert size is not None
        return size

    def apply(self, image: Image.Image) -> np.ndarray:
        """Return ``3 H W`` uint8 pixels."""
        height, width = self._resized(image.height, image.width)
        filter = Image.Resampling[self.resampling.upper()]
        pixels = np.asarray(image.resize((width, height), filter)).transpose(2, 0, 1)
        return np.ascontiguousarray(pixels if self.crop is None else _centre(pixels, *self.crop))

    def window(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return what of an image of this size is seen: left, top, right and bottom, in parts of it.

        They lie outside 0..1 where black margins are seen too.
        """
        resized = self._resized(height, width)
        seen = self.crop or resized
        edges: list[tuple[float, float]] = []
        for have, wanted in zip(resized, seen, strict=True):
            before = math.ceil(max(0, wanted - have) / 2)
            start = (max(have, wanted) - wanted) // 2 - before
            edges.append((start / have, (start + wanted) / have))
        (top, bottom), (left, right) = edges
        return left, top, right, bottom

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.stretch is not None:
            return self.stretch
        if self.shortest is None:
            return height, width
        short, long = min(height, width), max(height, width)
        other = int(self.shortest * long / short)
        return (self.shortest, other) if height <= width else (other, self.shortest)


def _centre(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut out the centre; where there is less, what is missing is black, the odd line of it on the near side."""
    missing = [max(0, wanted - have) for wanted, have in zip((height, width), pixels.shape[1:], strict=True)]
    before = [math.ceil(lines / 2) for lines in missing]
    margins = [(near, lines - near) for near, lines in zip(before, missing, strict=True)]
    padded = np.pad(pixels, [(0, 0), *margins])
    top, left = ((have - wanted) // 2 for wanted, have in zip((height, width), padded.shape[1:], strict=True))
    return padded[:, top : top + height, left : left + width]
