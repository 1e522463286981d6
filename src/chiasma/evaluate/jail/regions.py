"""Arrays in shared memory: the only way in and out of the jail. Each has a file and a mapping of its own.

Views of one buffer would share torch's version counter, so that a change to one array is taken for a change to all.
"""

import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from chiasma.core.spec import Spec, canonical_json, strict_json

HEADER = struct.Struct("<8sQ")
MAGIC = b"ANSWERED"


class Region(Spec):
    """What one array looks like."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, dtype: str, *shape: int) -> "Region":
        """Return the region of an array."""
        return cls(dtype=np.dtype(dtype).str, shape=shape)

    @property
    def size(self) -> int:
        """Return its bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class SharedArray:
    """An array that a child can be shown, or can fill; its descriptor is closed with it.

    Args:
        region: What it looks like.
        folder: Where a nameless file is made for it, for more than memory should hold; None for memory.
    """

    def __init__(self, region: Region, *, folder: str | None = None) -> None:
        self.region = region
        self.descriptor = _nameless_file(folder)
        os.ftruncate(self.descriptor, max(region.size, 1))
        self.array = _as_array(mmap.mmap(self.descriptor, max(region.size, 1)), region)

    @classmethod
    def holding(cls, array: np.ndarray, *, folder: str | None = None) -> "SharedArray":
        """Return a shared copy of an array."""
        shared = cls(Region.of(array.dtype.str, *array.shape), folder=folder)
        shared.array[...] = array
        return shared

    def close(self) -> None:
        """Close the descriptor; the memory goes back when the last one who looks at the array is gone."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self.array = np.zeros(0)


def attach(descriptor: int, region: Region, *, writable: bool) -> np.ndarray:
    """Return an array in a child: a private copy of an input, or an output whose changes the parent sees."""
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_COPY
    return _as_array(mmap.mmap(descriptor, max(region.size, 1), access=access), region)


def unfilled(region: Region) -> SharedArray:
    """Return an output; numbers that the child leaves out are NaN."""
    shared = SharedArray(region)
    if shared.array.dtype.kind == "f":
        shared.array.fill(np.nan)
    return shared


def write_answer(answer: Mapping[str, Any], place: np.ndarray) -> None:
    """Write an answer; its length last, so that a part of one is none.

    Raises:
        ValueError: It is too long, or not plain JSON.
    """
    text = canonical_json(answer).encode()
    room = len(place) - HEADER.size
    if len(text) > room:
        raise ValueError(f"an answer may have {room:,} bytes, but this one has {len(text):,}")
    place[HEADER.size : HEADER.size + len(text)] = np.frombuffer(text, np.uint8)
    place[: HEADER.size] = np.frombuffer(HEADER.pack(MAGIC, len(text)), np.uint8)


def read_answer(place: np.ndarray) -> dict[str, Any] | None:
    """Return the answer that was written, or None where there is none.

    Raises:
        ValueError: What is there is no answer; never believed, whatever it is.
    """
    magic, length = HEADER.unpack(place[: HEADER.size].tobytes())
    if magic == b"\0" * len(magic):
        return None
    if magic != MAGIC or length > len(place) - HEADER.size:
        raise ValueError("its header is damaged")
    answer: Any = strict_json(place[HEADER.size : HEADER.size + length].tobytes())
    if not isinstance(answer, dict):
        raise ValueError("it is not a mapping")
    return cast("dict[str, Any]", answer)


def _as_array(memory: mmap.mmap, region: Region) -> np.ndarray:
    count = region.size // np.dtype(region.dtype).itemsize
    return np.frombuffer(memory, np.dtype(region.dtype), count=count).reshape(region.shape)


def _nameless_file(folder: str | None) -> int:
    if folder is None and sys.platform == "linux":
        return os.memfd_create("chiasma", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())
