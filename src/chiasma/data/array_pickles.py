"""Python pickles of arrays and plain values, read without letting the file call anything."""

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

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
            return _loaded(_ArraysOnly(str(path), file), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def parse_numbers_pickle(data: bytes, *, name: str) -> dict[str, Any]:
    """Return the dictionary in the bytes of a pickle, whose arrays and NumPy scalars may be of any numbers.

    Args:
        data: The pickle.
        name: What it is called in messages.

    Raises:
        DataError: As in :func:`read_array_pickle`.
    """
    return _loaded(_ArraysOnly(name, io.BytesIO(data), _NUMBERS), name)


def _loaded(unpickler: "_ArraysOnly", name: str) -> dict[str, Any]:
    try:
        value = unpickler.load()
    except DataError:
        raise
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{name} is not a readable pickle: {reason}.") from None
    if not isinstance(value, dict):
        raise DataError(f"{name} must hold a dictionary, but holds a {type(value).__name__}.")
    return {_text(key): _without_shell(item) for key, item in value.items()}


class _Array:
    """Stands for ``numpy.ndarray``."""

    kinds: ClassVar[tuple[str, ...]] = ("u1",)
    wanted: ClassVar[str] = "unsigned bytes (u1)"
    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, data = state
        self.fill(data, dtype, shape, order="F" if by_columns else "C")

    def fill(self, data: Any, dtype: "_Dtype", shape: Any, *, order: str) -> None:
        if dtype.name not in self.kinds:
            raise ValueError(f"its arrays must be of {self.wanted}, but one is of {dtype.name}")
        self.values = np.frombuffer(data, dtype.known()).reshape(shape, order="F" if order == "F" else "C")


class _Numbers(_Array):
    """Stands for ``numpy.ndarray`` where any numbers may be in it."""

    kinds: ClassVar[tuple[str, ...]] = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
    wanted: ClassVar[str] = "numbers"


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: Any, *rest: Any) -> None:
        del rest
        self.name = _text(name)
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        """Take the byte order."""
        self.order = _text(state[1])

    def known(self) -> np.dtype[Any]:
        """Return NumPy's own type of a name that was found in a list of allowed ones."""
        if self.order not in ("|", "<", ">", "="):
            raise ValueError(f"its byte order must be one of | < > =, but is {self.order}")
        return np.dtype(self.order + self.name)


def _blank(*_: Any) -> _Array:
    """Stand for ``_reconstruct``, with which arrays begin until protocol 4."""
    return _Array()


def _blank_numbers(*_: Any) -> _Array:
    """Stand for ``_reconstruct`` where any numbers may be in it."""
    return _Numbers()


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    """Stand for ``_frombuffer``, which makes arrays in protocol 5."""
    array = _Array()
    array.fill(data, dtype, shape, order=order)
    return array


def _numbers_from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    """Stand for ``_frombuffer`` where any numbers may be in it."""
    array = _Numbers()
    array.fill(data, dtype, shape, order=order)
    return array


def _scalar(dtype: _Dtype, data: Any) -> Any:
    """Stand for ``scalar``, which makes NumPy's own numbers."""
    return _numbers_from_buffer(data, dtype, (1,), "C").values[0].item()


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
_NUMBERS: Mapping[tuple[str, str], Callable[..., Any]] = {
    **_STAND_INS,
    ("numpy", "ndarray"): _Numbers,
    ("numpy.core.multiarray", "_reconstruct"): _blank_numbers,
    ("numpy._core.multiarray", "_reconstruct"): _blank_numbers,
    ("numpy.core.numeric", "_frombuffer"): _numbers_from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _numbers_from_buffer,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _ArraysOnly(pickle.Unpickler):
    def __init__(
        self, name: str, file: IO[bytes], known: Mapping[tuple[str, str], Callable[..., Any]] = _STAND_INS
    ) -> None:
        super().__init__(file, encoding="bytes")
        self._name = name
        self._known = known

    def find_class(self, module: str, name: str, /) -> Any:
        known = self._known.get((module, name))
        if known is None:
            raise DataError(
                f"{self._name} asks for {module}.{name}, but a pickle may hold NumPy arrays and plain values alone. "
                "It was not read further; get the file from its official source."
            )
        return known


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _without_shell(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value
