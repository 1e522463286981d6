"""Arrays on disk in NumPy's own format, written so that a full disk is an error with a reason."""

import os
from pathlib import Path

import numpy as np


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy`` file that is on the disk when this returns.

    Raises:
        OSError: With the system's own reason, which ``np.save`` loses when the disk is full.
    """
    plain = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(plain))
        file.write(plain.tobytes())
        file.flush()
        os.fsync(file.fileno())


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
