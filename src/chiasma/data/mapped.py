"""Arrays on disk that are written in place."""

import os
from pathlib import Path

import numpy as np


def create_mapped(path: Path, *, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """Create a ``.npy`` file of zeros, mapped for writing, with all its space reserved.

    Raises:
        OSError: The disk is full. Without the reservation the process would be killed at a later write.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
