"""Decoding any image a user may have into RGB, safely: nothing saturates, and a bad file is one error."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from chiasma.core.errors import DataError

Fit = Literal["pad", "crop", "stretch"]

DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise on damaged files."""


@dataclass(frozen=True)
class Header:
    """What a file says about its image before it is decoded.

    Attributes:
        frames: More than one for an animation, of which the first frame counts.
    """

    width: int
    height: int
    frames: int


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata and large images, which are checked here; for the main thread."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def read_header(data: bytes, *, max_pixels: int) -> Header:
    """Read an image's size without decoding it.

    Raises:
        DataError: It is not an image, or larger than ``max_pixels``.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            header = Header(image.width, image.height, int(getattr(image, "n_frames", 1)))
    except Image.DecompressionBombError as error:
        raise DataError(f"too many pixels: {error}") from None
    except DECODER_ERRORS as error:
        raise DataError(f"not a readable image: {_first_line(error)}") from None
    if header.width * header.height > max_pixels:
        size = f"{header.width} x {header.height}"
        raise DataError(f"too many pixels: {size} is more than data.max_pixels={max_pixels:,}")
    return header


def decode(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode a file's bytes to RGB, turned upright, transparency on white, 16 bits scaled to 8, the first frame only.

    Raises:
        DataError: The file is damaged, truncated, not an image, or larger than ``max_pixels``.
    """
    read_header(data, max_pixels=max_pixels)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except DECODER_ERRORS as error:
        raise DataError(f"damaged image: {_first_line(error)}") from None


def decode_file(path: Path, *, max_pixels: int) -> Image.Image:
    """Decode a file like :func:`decode`; the error names the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"The image {path} cannot be read: {error.strerror}.") from None
    try:
        return decode(data, max_pixels=max_pixels)
    except DataError as error:
        raise DataError(f"The image {path} cannot be used: {error}.") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB without saturation; what is transparent becomes white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colour).convert("RGB")
    return image.convert("RGB")


def from_array(pixels: np.ndarray) -> Image.Image:
    """Return an image from ``H W``, ``H W 1``, ``H W 3`` or ``H W 4`` uint8 pixels.

    Raises:
        DataError: The shape or the type is another one.
    """
    squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    fitting = squeezed.ndim == 2 or (squeezed.ndim == 3 and squeezed.shape[-1] in (3, 4))
    if pixels.dtype != np.uint8 or not fitting or not squeezed.size:
        raise DataError(f"An image must be H x W x 3 of uint8, but got {pixels.shape} of {pixels.dtype}.")
    return to_rgb(Image.fromarray(np.ascontiguousarray(squeezed)))


def fitted(image: Image.Image, *, height: int, width: int, fit: Fit) -> np.ndarray:
    """Resize to ``height`` x ``width`` and return ``3 H W`` uint8 pixels."""
    size = (width, height)
    if image.size == size:
        scaled = image
    elif fit == "stretch":
        scaled = image.resize(size, Image.Resampling.BILINEAR)
    elif fit == "crop":
        scaled = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    else:
        scaled = ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=(0, 0, 0))
    return np.ascontiguousarray(np.asarray(scaled).transpose(2, 0, 1))


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale integers by their type's range and other numbers by their own, to 0..255."""
    if mode.startswith("I;16") or (mode == "I" and 255 < values.max(initial=0) <= 65535):
        return (values.astype(np.uint32) // 257).astype(np.uint8)
    if mode == "I" and values.min(initial=0) >= 0 and values.max(initial=0) <= 255:
        return values.astype(np.uint8)
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = min(0.0, finite.min(initial=0.0)), max(1.0, finite.max(initial=0.0))
    return np.round((finite - low) * (255 / (high - low))).astype(np.uint8)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
