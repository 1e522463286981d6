"""The list of a checkpoint's files with their hashes, and the only way its bytes are read.

A flipped bit loads silently from safetensors, PyTorch and JPEG files alike; only our own hashes see it.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError

from chiasma.core.errors import CorruptFileError
from chiasma.core.files import parse_json, storage_errors
from chiasma.core.spec import Spec, canonical_json

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_HEADER_BYTES = 16 << 20

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

Kind = Literal["tensors", "document", "file"]


class Entry(Spec):
    """One file: how it is read, its size in bytes and its SHA-256 in hexadecimal."""

    kind: Kind
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(Spec):
    """All files of a checkpoint but the manifest itself, by name."""

    format: Literal[1] = FORMAT
    step: int = Field(ge=0)
    files: Mapping[str, Entry]

    def names(self, kind: Kind) -> list[str]:
        """Return the names of the files of one kind, sorted."""
        return sorted(name for name, entry in self.files.items() if entry.kind == kind)


def check_name(name: str) -> str | None:
    """Return why ``name`` cannot be a file inside a checkpoint, or None."""
    if not _SAFE_NAME.fullmatch(name):
        return f"file name {name!r} is not made of letters, digits, '_', '-' and '.'"
    if name == MANIFEST:
        return f"file name {name!r} is taken by the manifest"
    return None


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on disk.

    Raises:
        StorageError: The disk is full, read-only or failing.
    """
    with storage_errors(path), open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, sealed with a hash of itself."""
    write_durably(folder / MANIFEST, _sealed(manifest.to_dict()))


def read_manifest(folder: Path) -> Manifest:
    """Read and check a checkpoint's manifest, and that the folder holds exactly the files it lists.

    Raises:
        CorruptFileError: Something is not as it was written; names the file and the reason.
    """
    path = folder / MANIFEST
    data = _read_regular(path, limit=MAX_MANIFEST_BYTES)
    values = parse_json(data, path)
    if not isinstance(values, dict):
        raise CorruptFileError(f"{path} is damaged: it does not hold a JSON object.")
    body = {name: value for name, value in cast("dict[str, Any]", values).items() if name != "sha256"}
    if data != _sealed(body):
        raise CorruptFileError(f"{path} is damaged: its own SHA-256 does not match.")
    if body.get("format") != FORMAT:
        raise CorruptFileError(f"{path} has format {body.get('format')!r}, but this chiasma reads format {FORMAT}.")
    try:
        manifest = Manifest.model_validate(body)
    except ValidationError as error:
        raise CorruptFileError(f"{path} is damaged: {error.errors()[0]['msg']}.") from None
    _check_contents(folder, manifest)
    return manifest


def read_listed(folder: Path, name: str, entry: Entry) -> bytes:
    """Return the bytes of a listed file, which are those that were written.

    Raises:
        CorruptFileError: The size or the hash differs; both values are named.
    """
    path = folder / name
    data = _read_regular(path, limit=entry.size)
    if len(data) != entry.size:
        size = path.stat().st_size
        raise CorruptFileError(f"{path} is damaged: it has {size} bytes, but {entry.size} were written.")
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise CorruptFileError(f"{path} is damaged: its SHA-256 is {found}, but {entry.sha256} was written.")
    return data


def check_tensors_header(data: bytes, path: Path) -> None:
    """Refuse a safetensors file whose header could exhaust the parser, before parsing it.

    Raises:
        CorruptFileError: The header is longer than the file or the limit, or is not JSON.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise CorruptFileError(
            f"{path} is not a safetensors file: its header would have {length} of {len(data)} bytes."
        )
    if length > MAX_HEADER_BYTES:
        raise CorruptFileError(f"{path} has a header of {length} bytes, but at most {MAX_HEADER_BYTES} are read.")
    header = data[8 : 8 + length]
    if not header.startswith(b"{"):
        raise CorruptFileError(f"{path} is not a safetensors file: its header is not JSON.")
    parse_json(header, path)


def _sealed(values: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(canonical_json(values).encode()).hexdigest()
    return (json.dumps({**values, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _read_regular(path: Path, *, limit: int) -> bytes:
    """Return at most ``limit + 1`` bytes of a file that is neither a link, a device nor a pipe."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CorruptFileError(f"{path} is not a plain file, so it is not read.")
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        raise CorruptFileError(f"{path} is missing.") from None
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read: {error.strerror}.") from error


def _check_contents(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        problem = check_name(name)
        if problem:
            raise CorruptFileError(f"{folder / MANIFEST} is refused: {problem}.")
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(set(manifest.files) - present):
        raise CorruptFileError(f"{folder / name} is missing.")
    for name in sorted(present - set(manifest.files)):
        raise CorruptFileError(f"{folder / name} is not in the manifest, so nothing in {folder.name} is used.")
