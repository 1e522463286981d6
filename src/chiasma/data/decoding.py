"""All images of a table: looked at once for what they are, decoded once into one memory-mapped array."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import imagehash
import numpy as np
from PIL import Image

from chiasma.core.errors import DataError
from chiasma.data.image import decode, from_array, quiet_decoding, read_header

TINY = 8
"""Images with a side below this many pixels are counted as tiny."""

COMPARABLE = 32
"""Images with a side below this many pixels are too small for a perceptual hash."""

_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Picture:
    """What is known of one image name.

    Attributes:
        digest: Hash of the content, equal exactly for equal files; empty where there is none.
        problem: Why it cannot be used, or empty.
        detail: The same at length.
    """

    name: str
    digest: str = ""
    width: int = 0
    height: int = 0
    frames: int = 1
    problem: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Decoded:
    """What decoding the distinct images gave, one entry each.

    Attributes:
        problems: Why an image could not be decoded, by its digest.
        hashes: ``U`` uint64 perceptual hashes.
        thumbnails: ``U 16 16 3`` uint8.
        comparable: Which images are large and rich enough for the two.
    """

    problems: Mapping[str, str]
    hashes: np.ndarray
    thumbnails: np.ndarray
    comparable: np.ndarray


def survey(
    names: Iterable[str],
    *,
    root: Path | None,
    arrays: Mapping[str, np.ndarray | bytes],
    max_pixels: int,
    headers: bool = True,
    elsewhere: Mapping[str, Path] = MappingProxyType({}),
) -> dict[str, Picture]:
    """Hash every image and read its size, without decoding it.

    Args:
        names: As in the table.
        root: Where file names start; a name that leads out of it is refused.
        arrays: Images that are in memory, by name: pixels, or the bytes of a file.
        max_pixels: Larger ones are refused.
        headers: Also look whether the file is an image.
        elsewhere: Files that are not below ``root``, by name.
    """

    def look(name: str) -> Picture:
        if name in arrays:
            content = arrays[name]
            if isinstance(content, bytes):
                return _look_at_bytes(name, content, max_pixels, headers)
            return _look_at_array(name, content)
        assert root is not None
        path = elsewhere.get(name) or (image_path(name, root) if "\0" not in name else None)
        if path is None:
            return Picture(name, problem="image path outside the image folder", detail=f"{name!r} is not inside {root}")
        return _look_at_file(name, path, max_pixels, headers)

    unique = list(dict.fromkeys(names))
    with quiet_decoding(), ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(unique, pool.map(look, unique), strict=True))


def image_path(name: str, root: Path) -> Path | None:
    """Return where an image lies, or None where its name leads out of ``root``."""
    top = os.path.abspath(root)
    joined = os.path.normpath(os.path.join(top, name))
    return Path(joined) if joined.startswith(top.rstrip(os.sep) + os.sep) else None


def _look_at_array(name: str, pixels: np.ndarray) -> Picture:
    try:
        image = from_array(pixels)
    except DataError as error:
        return Picture(name, problem="unreadable image", detail=str(error))
    digest = hashlib.blake2b(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes(), digest_size=16)
    return Picture(name, digest.hexdigest(), image.width, image.height)


def _look_at_file(name: str, path: Path, max_pixels: int, headers: bool) -> Picture:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Picture(name, problem="missing image", detail=f"{path} does not exist")
    except OSError as error:
        return Picture(name, problem="unreadable image", detail=f"{path}: {error.strerror}")
    return _look_at_bytes(name, data, max_pixels, headers, where=f"{path}: ")


def _look_at_bytes(name: str, data: bytes, max_pixels: int, headers: bool, *, where: str = "") -> Picture:
    found = Picture(name, hashlib.blake2b(data, digest_size=16).hexdigest())
    if not headers:
        return found
    try:
        header = read_header(data, max_pixels=max_pixels)
    except DataError as error:
        problem = "too many pixels" if str(error).startswith("too many pixels") else "unreadable image"
        return replace(found, problem=problem, detail=f"{where}{error}")
    return replace(found, width=header.width, height=header.height, frames=header.frames)


def decode_all(
    pictures: Sequence[Picture],
    *,
    load: Callable[[str], "bytes | np.ndarray"],
    out: np.ndarray,
    shrink: Callable[[Image.Image], np.ndarray],
    max_pixels: int,
    progress: Callable[[str], None],
) -> Decoded:
    """Decode distinct images into ``out``, in order; one that fails leaves zeros in its own place.

    Args:
        pictures: ``U`` images with different digests.
        load: Returns a name's bytes, or its pixels where it is in memory.
        out: ``U 3 H W`` uint8, written in place.
        shrink: Returns an image as ``3 H W`` uint8.
        max_pixels: Larger ones are refused.
        progress: Told how far it is.
    """
    count = len(pictures)
    problems: dict[str, str] = {}
    hashes, comparable = np.zeros(count, dtype=np.uint64), np.zeros(count, dtype=bool)
    thumbnails = np.zeros((count, 16, 16, 3), dtype=np.uint8)

    def work(index: int) -> None:
        content = load(pictures[index].name)
        try:
            image = decode(content, max_pixels=max_pixels) if isinstance(content, bytes) else from_array(content)
        except DataError as error:
            problems[pictures[index].digest] = str(error)
            return
        out[index] = shrink(image)
        thumbnails[index] = np.asarray(image.resize((16, 16), Image.Resampling.BOX))
        if min(image.size) >= COMPARABLE and thumbnails[index].std() > 2:
            hashes[index] = int(str(imagehash.phash(image)), 16)
            comparable[index] = True

    with quiet_decoding(), ThreadPoolExecutor(_THREADS) as pool:
        for done, _ in enumerate(pool.map(work, range(count)), start=1):
            if done % 2000 == 0:
                progress(f"decoded {done:,} of {count:,} images")
    return Decoded(problems, hashes, thumbnails, comparable)
