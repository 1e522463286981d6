"""Pickles as Python 2 wrote them, byte for byte in the opcodes that matter: byte strings, and NumPy by its old name."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar


class Python2Pickler(pickle._Pickler):
    """Writes ``bytes`` as Python 2 wrote its strings."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_python2_string(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_python2_string


def write_pickle(path: Path, value: Any) -> None:
    """Write a value as the official files were written."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    path.write_bytes(buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
