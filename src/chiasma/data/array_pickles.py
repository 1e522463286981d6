"""Python pickles of byte arrays and plain values, read without letting the file call anything."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from chiasma.core.errors import DataError

_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""What the standard library's unpickler raises on damaged files."""


def read_array_pickle(path: Path) -> dict[str, Any]:
    """Return the dictionary in a pickle, with its keys as strings.

    The values are plain ones, strings of Python 2 as bytes, and NumPy arrays of unsigned bytes. Whatever else a file
    names is refused before it is looked up, and what stands for NumPy's own functions here is not NumPy's, so that
    nothing of a file is ever called.

    Raises:
        DataError: The file asks for something else, is damaged, or holds no dictionary; names the file.
    """
    try:
        with open(path, "rb") as file:
            value = _ArraysOnly(path, file).load()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except DataError:
        raise
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{path} is not a readable pickle: {reason}.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a dictionary, but holds a {type(value).__name__}.")
    return {_text(key): _without_shell(item) for key, item in value.items()}


class _Array:
    """Stands for ``numpy.ndarray``."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, data = state
        self.fill(data, dtype, shape, order="F" if by_columns else "C")

    def fill(self, data: Any, dtype: "_Dtype", shape: Any, *, order: str) -> None:
        if dtype.name != "u1":
            raise ValueError(f"its arrays must be of unsigned bytes (u1), but one is of {dtype.name}")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if order == "F" else "C")


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: Any, *rest: Any) -> None:
        del rest
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        """Take the byte order, which says nothing of single bytes."""


def _blank(*_: Any) -> _Array:
    """Stand for ``_reconstruct``, with which arrays begin until protocol 4."""
    return _Array()


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    """Stand for ``_frombuffer``, which makes arrays in protocol 5."""
    array = _Array()
    array.fill(data, dtype, shape, order=order)
    return array


def _as_bytes(text: str, encoding: str) -> bytes:
    """Stand for ``_codecs.encode``, with which Python 3 writes bytes until protocol 2."""
    if encoding != "latin1":
        raise ValueError(f"its bytes must be written as latin1, but are as {encoding!r}")
    return text.encode("latin1")


# What has a state says so in __setstate__: a pickle could set attributes of a class that does not.
_STAND_INS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _blank,
    ("numpy._core.multiarray", "_reconstruct"): _blank,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _as_bytes,
}


class _ArraysOnly(pickle.Unpickler):
    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(file, encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str, /) -> Any:
        known = _STAND_INS.get((module, name))
        if known is None:
            raise DataError(
                f"{self._path} asks for {module}.{name}, but a pickle may hold NumPy arrays and plain values alone. "
                "It was not read further; get the file from its official source."
            )
        return known


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _without_shell(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value
