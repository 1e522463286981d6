"""Checkpoints that are there whole or not at all, are verified before use, and never run code when loaded.

A checkpoint is a folder ``step-00000120`` of safetensors, JSON and raw files with a manifest of their hashes. It is
written beside, synced file by file, and renamed last, so that ``kill -9`` at any moment leaves the one before or the
new one. Nothing is unpickled.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from chiasma.core.errors import CorruptFileError
from chiasma.core.files import parse_json, storage_errors, sync_folder
from chiasma.core.spec import canonical_json
from chiasma.store.manifest import (
    Entry,
    Manifest,
    check_name,
    check_tensors_header,
    read_listed,
    read_manifest,
    write_durably,
    write_manifest,
)

_log = logging.getLogger(__name__)

# A step that is saved again gets a revision, because a rename cannot replace a folder at once.
_NAME = re.compile(r"step-(\d{8,})(?:\.r(\d+))?")


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that was not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        step: The step it was saved at.
        documents: The JSON documents, by name.
        files: The raw files, by name.
        skipped: Newer checkpoints that were damaged, newest first.
    """

    path: Path
    step: int
    documents: Mapping[str, Any]
    files: Mapping[str, bytes]
    manifest: Manifest
    skipped: tuple[Skipped, ...] = ()

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return one group of tensors on the CPU, verified again while it is read.

        Raises:
            CorruptFileError: The file changed since it was verified.
            ValueError: There is no group of this name.
        """
        file = f"{name}.safetensors"
        if file not in self.manifest.files:
            known = ", ".join(self.tensor_names) or "none"
            raise ValueError(f"{self.path} has no tensors {name!r}; it has: {known}.")
        return _parse_tensors(read_listed(self.path, file, self.manifest.files[file]), self.path / file)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Return the names of the groups of tensors."""
        return tuple(name.removesuffix(".safetensors") for name in self.manifest.names("tensors"))


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint atomically, verify it, and only then delete old ones.

    Later steps in ``folder`` belong to a past that was abandoned and count as old.

    Args:
        folder: Where the checkpoints of one training lie; made when missing.
        step: Counted from 0; part of the name.
        tensors: Groups of tensors, such as ``{"model": ..., "optimizer": ...}``.
        documents: Plain JSON values, by name.
        files: Raw bytes, by file name.
        keep: How many checkpoints stay, with this one.

    Raises:
        StorageError: The disk is full, read-only or failing; earlier checkpoints are intact.
        CorruptFileError: What came back from the disk is not what was written.
        ValueError: A name cannot be a file name or is used twice, a document is not JSON, or ``keep`` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, but keep={keep}.")
    payloads = _payloads(tensors, documents, files or {})
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    path = _free_name(folder, step)
    with _draft(path) as draft:
        entries: dict[str, Entry] = {}
        for name, (kind, data) in payloads.items():
            write_durably(draft / name, data)
            entries[name] = Entry(kind=kind, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        write_manifest(draft, Manifest(step=step, files=entries))
        with storage_errors(path):
            sync_folder(draft)
            os.rename(draft, path)
            sync_folder(folder)
    verify(path)
    _delete_old(folder, path, keep=keep)
    return path


def load_newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, or None where none was ever saved.

    Damaged ones are logged as warnings and listed in ``skipped``.

    Raises:
        CorruptFileError: There are checkpoints, but all are damaged.
    """
    if not folder.is_dir():
        return None
    sweep(folder)
    skipped: list[Skipped] = []
    for path in _newest_first(folder):
        try:
            found = load_checkpoint(path)
        except CorruptFileError as error:
            _log.warning("Checkpoint %s is damaged and is skipped: %s", path.name, error)
            skipped.append(Skipped(path, str(error)))
            continue
        return Checkpoint(found.path, found.step, found.documents, found.files, found.manifest, tuple(skipped))
    if skipped:
        raise CorruptFileError(
            f"All {len(skipped)} checkpoints in {folder} are damaged; the newest: {skipped[0].reason} "
            "Delete the folder to start this training again."
        )
    return None


def any_saved(folder: Path) -> bool:
    """Return whether :func:`load_newest` has something to verify: it then returns a checkpoint or raises."""
    return folder.is_dir() and bool(_newest_first(folder))


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify one checkpoint and return it.

    Raises:
        CorruptFileError: It is not a checkpoint folder, or a file is damaged, missing or unknown.
    """
    manifest = verify(path)
    documents = {
        name.removesuffix(".json"): parse_json(read_listed(path, name, manifest.files[name]), path / name)
        for name in manifest.names("document")
    }
    raw = {name: read_listed(path, name, manifest.files[name]) for name in manifest.names("file")}
    return Checkpoint(path, manifest.step, documents, raw, manifest)


def verify(path: Path) -> Manifest:
    """Check every byte of a checkpoint and return its manifest.

    Raises:
        CorruptFileError: Names the file and the reason.
    """
    if path.is_symlink() or not path.is_dir():
        raise CorruptFileError(f"{path} is not a checkpoint folder; pickled files (.pt, .ckpt) are never loaded.")
    name = _NAME.fullmatch(path.name)
    manifest = read_manifest(path)
    if name is not None and int(name[1]) != manifest.step:
        raise CorruptFileError(f"{path} says it was saved at step {manifest.step}, but its name says {int(name[1])}.")
    for file, entry in manifest.files.items():
        data = read_listed(path, file, entry)
        if entry.kind == "tensors":
            check_tensors_header(data, path / file)
    return manifest


def sweep(folder: Path) -> None:
    """Delete what a killed writer left half-written; what a living one is writing stays."""
    for path in folder.glob("step-*.tmp"):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _payloads(
    tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, tuple[Any, bytes]]:
    """Return kind and bytes by file name, checked before anything touches the disk."""
    listed = [(f"{name}.safetensors", "tensors", _tensor_bytes(group)) for name, group in tensors.items()]
    listed += [(f"{name}.json", "document", _document_bytes(name, value)) for name, value in documents.items()]
    listed += [(name, "file", bytes(data)) for name, data in files.items()]
    payloads: dict[str, tuple[Any, bytes]] = {}
    for name, kind, data in listed:
        problem = check_name(name) or (f"file name {name!r} is used twice" if name in payloads else None)
        if problem:
            raise ValueError(f"A checkpoint cannot be written: {problem}.")
        payloads[name] = (kind, data)
    return payloads


def _tensor_bytes(group: Mapping[str, Tensor]) -> bytes:
    # Copies, because safetensors refuses tensors that share memory, such as tied weights.
    copies = {name: group[name].detach().to("cpu", copy=True).contiguous() for name in sorted(group)}
    return safetensors.torch.save(copies)


def _document_bytes(name: str, value: Any) -> bytes:
    try:
        return canonical_json(value).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"Document {name!r} of a checkpoint must be plain JSON: {error}.") from None


def _parse_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    check_tensors_header(data, path)
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptFileError(f"{path} is not a usable safetensors file: {error}.") from None


@contextmanager
def _draft(path: Path) -> Generator[Path]:
    """Make the folder in which ``path`` is written, locked against sweeping, and remove it if writing fails."""
    draft = path.with_name(f"{path.name}.tmp")
    with storage_errors(draft):
        draft.mkdir()
        descriptor = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def _free_name(folder: Path, step: int) -> Path:
    name = f"step-{step:08d}"
    revision = 0
    while (folder / name).exists() or (folder / f"{name}.tmp").exists():
        revision += 1
        name = f"step-{step:08d}.r{revision}"
    return folder / name


def _order(path: Path) -> tuple[int, int]:
    name = _NAME.fullmatch(path.name)
    assert name is not None
    return int(name[1]), int(name[2] or 0)


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_order, reverse=True)


def _delete_old(folder: Path, newest: Path, *, keep: int) -> None:
    older = [path for path in _newest_first(folder) if _order(path) < _order(newest)]
    for path in _newest_first(folder):
        if path == newest or path in older[: keep - 1]:
            continue
        # Renamed first, so that a crash within the deletion leaves a stale draft and no damaged checkpoint.
        doomed = path.with_name(f"{path.name}.old.tmp")
        with storage_errors(doomed):
            os.rename(path, doomed)
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            doomed.unlink(missing_ok=True)
