"""A published image processor: read once by transformers, then repeated without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from chiasma.core.errors import ConfigError
from chiasma.core.rng import numpy_rng
from chiasma.data.framing import Framing
from chiasma.data.published import INSTALL, Published, content_sha256

TRIED = ((37, 61), (350, 280), (9, 400))
"""Height and width of the images on which it is tried whether a processor is repeated exactly."""

TOLERANCE = 1e-5
_WARPED_FROM = 384


@dataclass(frozen=True)
class PublishedImages:
    """What an image processor does.

    Attributes:
        framing: To pixels of one size.
        mean: What is then subtracted from each channel, in parts of white.
        deviation: What it is then divided by.
    """

    framing: Framing
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def sha256(self) -> str:
        """Return a hash of all that a model's input depends on."""
        return content_sha256([self.framing.to_dict(), self.mean, self.deviation])

    def apply(self, image: Image.Image) -> np.ndarray:
        """Return what the model sees, ``3 H W`` float32."""
        pixels = self.framing.apply(image).astype(np.float32) / 255
        mean, deviation = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.deviation))
        scaled = (pixels.transpose(1, 2, 0) - mean) / deviation
        return scaled.transpose(2, 0, 1)


def read_image_processor(source: Published) -> PublishedImages:
    """Read an image processor as transformers does, with Pillow; torchvision is not needed.

    Raises:
        ConfigError: There is none, it does something that is not repeated here, or it is not the one read before.
    """
    processor = _loaded(source)
    found = _repeated(processor, source.name)
    _try_out(processor, found, source.name)
    source.checked(found.sha256, what="image processor")
    return found


def _loaded(source: Published) -> Any:
    folder = source.folder()
    if not (folder / "preprocessor_config.json").is_file() and not (folder / "processor_config.json").is_file():
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        raise ConfigError(
            f"{folder} holds no image processor: preprocessor_config.json is missing; it holds "
            f"{', '.join(names) or 'nothing'}."
        )
    try:
        from transformers import AutoImageProcessor
    except ImportError:
        raise ConfigError(f"Reading the image processor of {source.name} needs transformers: {INSTALL}.") from None
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(f"The image processor in {folder} cannot be read: {line}.") from None


def _repeated(processor: Any, name: str) -> PublishedImages:
    """Return what a processor's settings mean."""
    framing = _framing(processor)
    if framing is None:
        raise _not_repeated(processor, name, "its images have no fixed size")
    scale = 255 * float(processor.rescale_factor) if processor.do_rescale else 255.0
    normalised = bool(processor.do_normalize)
    mean = _channels(processor.image_mean) if normalised else (0.0, 0.0, 0.0)
    deviation = _channels(processor.image_std) if normalised else (1.0, 1.0, 1.0)
    return PublishedImages(framing, tuple(m / scale for m in mean), tuple(d / scale for d in deviation))


def _framing(processor: Any) -> Framing | None:
    resampling = Image.Resampling(int(processor.resample)).name.lower()
    size, crop = _plain(processor.size), None
    if getattr(processor, "do_center_crop", False):
        crop = _height_and_width(_plain(processor.crop_size))
    shortest = size.get("shortest_edge")
    part = getattr(processor, "crop_pct", None)
    if not processor.do_resize:
        return None if crop is None else Framing.from_dict({"crop": crop, "resampling": resampling})
    stretch = _height_and_width(size)
    if part is not None and shortest:
        # ConvNeXt's way: smaller images are cut out of larger ones, large ones are stretched.
        square = (shortest, shortest)
        if shortest < _WARPED_FROM:
            shortest, crop = int(shortest / part), square
        else:
            shortest, stretch = None, square
    if stretch is None and (crop is None or not shortest or size.get("longest_edge")):
        return None
    values = {"shortest": None if stretch else shortest, "stretch": stretch, "crop": crop, "resampling": resampling}
    return Framing.from_dict(values)


def _try_out(processor: Any, found: PublishedImages, name: str) -> None:
    """Refuse a processor whose result differs from ours on some image."""
    for height, width in TRIED:
        pixels = numpy_rng(0, "image processor", height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        ours = found.apply(image)
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE):
            raise _not_repeated(processor, name, f"its result for an image of {width} x {height} pixels is another one")


def _not_repeated(processor: Any, name: str, why: str) -> ConfigError:
    kind = type(processor).__name__.removesuffix("Pil")
    return ConfigError(
        f"The image processor of {name} ({kind}) does more than resizing, cutting out the centre and normalising: "
        f"{why}. Use another one: data.image_processor=NAME|FOLDER."
    )


def _plain(size: Any) -> dict[str, int]:
    return {key: int(value) for key, value in dict(size).items() if value is not None}


def _height_and_width(size: dict[str, int]) -> tuple[int, int] | None:
    return (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None


def _channels(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(float(value) for value in values)
