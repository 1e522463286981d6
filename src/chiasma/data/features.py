"""Tokens of frozen encoders in one file: written here, or imported from a file made elsewhere."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from chiasma.core.errors import DataError
from chiasma.core.files import storage_errors, sync_folder
from chiasma.data.feature_archives import FOLDERS, read_hdf5, read_lmdb
from chiasma.data.signature import TokensInput


@dataclass(frozen=True)
class Features:
    """Tokens of ``n`` images or texts.

    Attributes:
        ids: What each belongs to.
        tokens: ``n N D`` float16.
        mask: ``n N`` booleans, True where a token counts; None where all do.
        boxes: ``n N 5`` float32, ``x1 y1 x2 y2 area`` in parts of the image, or None.
    """

    ids: tuple[str, ...]
    tokens: np.ndarray
    mask: np.ndarray | None = None
    boxes: np.ndarray | None = None

    def signature(self) -> TokensInput:
        """Return what a model's shape depends on."""
        return TokensInput(count=self.tokens.shape[1], dim=self.tokens.shape[2], boxes=self.boxes is not None)

    def save(self, path: Path) -> None:
        """Write a safetensors file that :func:`import_file` reads; a kill leaves the old one or none."""
        parts = {"tokens": self.tokens, "mask": self.mask, "boxes": self.boxes}
        present = {name: np.ascontiguousarray(values) for name, values in parts.items() if values is not None}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with storage_errors(path):
            try:
                save_file(present, temporary, metadata={"id": json.dumps(list(self.ids))})
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)


def import_file(path: Path) -> Features:
    """Read tokens made elsewhere: ``tokens`` and ``id``, and perhaps ``mask`` and ``boxes``; or a detector's regions.

    HDF5 and LMDB are read as :mod:`chiasma.data.feature_archives` says. In ``npz`` the ids are an array of strings or
    integers; in ``safetensors`` they are a JSON list in the metadata entry ``id``, or an integer tensor. Nothing is
    unpickled that could call something.

    Raises:
        DataError: The file is missing, damaged, holds objects, has a wrong shape, repeats an id, or is not finite.
    """
    reader = _READERS.get(path.suffix)
    if not (path.is_file() or (path.is_dir() and path.suffix in FOLDERS)):
        raise DataError(f"The feature file {path} does not exist.")
    if reader is None:
        endings = ", ".join(_READERS)
        raise DataError(f"The feature file {path} must end in one of {endings}, but ends in {path.suffix!r}.")
    arrays = reader(path)
    for name in ("tokens", "id"):
        if name not in arrays:
            raise DataError(
                f"The feature file {path} must hold 'tokens' and 'id', but has {', '.join(sorted(arrays))}."
            )
    return _checked(path, arrays)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # NumPy leaves a file open that it opened itself and could not read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        if "pickle" in str(error):
            raise DataError(f"The feature file {path} holds Python objects, which are never loaded.") from None
        raise DataError(f"The feature file {path} is damaged: {str(error).splitlines()[0]}") from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: _to_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        if "id" in metadata:
            arrays["id"] = np.array([str(name) for name in json.loads(metadata["id"])])
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DataError(f"The feature file {path} is damaged: {str(error).splitlines()[0]}") from None
    return arrays


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


_READERS: Mapping[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".lmdb": read_lmdb,
    ".mdb": read_lmdb,
}


def _checked(path: Path, arrays: dict[str, np.ndarray]) -> Features:
    tokens, names = arrays["tokens"], arrays["id"]
    if tokens.ndim != 3 or tokens.dtype.kind != "f" or 0 in tokens.shape:
        raise DataError(f"'tokens' in {path} must be n x N x D floats, but is {tokens.shape} of {tokens.dtype}.")
    if names.shape != tokens.shape[:1] or names.dtype.kind not in "UiuS":
        raise DataError(
            f"'id' in {path} must be {len(tokens)} names, one a row, but is {names.shape} of {names.dtype}."
        )
    ids = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"'id' in {path} must name each row once, but {twice!r} occurs more than once.")
    with np.errstate(over="ignore"):
        halves = tokens.astype(np.float16, copy=False)
    finite = np.isfinite(halves).all(axis=(1, 2))
    if not finite.all():
        first = ids[int(np.argmin(finite))]
        raise DataError(f"'tokens' in {path} must be finite and within float16, but row {first!r} is not.")
    mask, boxes = arrays.get("mask"), arrays.get("boxes")
    if mask is not None and (mask.shape != tokens.shape[:2] or mask.dtype != np.bool_):
        raise DataError(f"'mask' in {path} must be {tokens.shape[:2]} booleans, but is {mask.shape} of {mask.dtype}.")
    if boxes is not None and (boxes.shape != (*tokens.shape[:2], 5) or not np.isfinite(boxes).all()):
        raise DataError(f"'boxes' in {path} must be finite and {(*tokens.shape[:2], 5)}, but is {boxes.shape}.")
    return Features(ids, halves, mask, None if boxes is None else boxes.astype(np.float32))
