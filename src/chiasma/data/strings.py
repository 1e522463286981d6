"""Many strings in two files that open at once: their bytes, and where each begins."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from chiasma.data.mapped import save_array


class StringColumn:
    """A read-only column of strings, memory-mapped."""

    def __init__(self, data: np.ndarray, offsets: np.ndarray) -> None:
        self._data = data
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        start, end = self._offsets[index], self._offsets[index + 1]
        return self._data[start:end].tobytes().decode()

    def take(self, indices: Iterable[int]) -> list[str]:
        """Return the strings at several places."""
        return [self[int(index)] for index in indices]

    @staticmethod
    def write(folder: Path, name: str, values: Sequence[str]) -> None:
        """Write ``name.text.npy`` and ``name.offsets.npy``."""
        encoded = [value.encode() for value in values]
        offsets = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        save_array(folder / f"{name}.text.npy", np.frombuffer(b"".join(encoded), dtype=np.uint8))
        save_array(folder / f"{name}.offsets.npy", offsets)

    @classmethod
    def open(cls, folder: Path, name: str) -> "StringColumn":
        """Open what :meth:`write` wrote."""
        # An empty file cannot be mapped.
        data = np.load(folder / f"{name}.text.npy", allow_pickle=False)
        return cls(data, np.load(folder / f"{name}.offsets.npy", allow_pickle=False))
