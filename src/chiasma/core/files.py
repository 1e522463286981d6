"""Files that are either the old one or the new one, whatever happens in between."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chiasma.core.errors import CorruptFileError, StorageError
from chiasma.core.spec import strict_json

MOUNTS = Path("/proc/self/mounts")
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "9p", "ceph", "glusterfs", "fuse.glusterfs", "lustre"}
    | {"beegfs", "gpfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"}
)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader or a crash sees the old content or the new, never a part.

    Raises:
        StorageError: The folder cannot be written to, or the disk is full; the old file is intact.
    """
    payload = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storage_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically; NaN is refused."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file strictly.

    Raises:
        CorruptFileError: It is not JSON, repeats a key, or holds NaN.
    """
    return parse_json(path.read_bytes(), path)


def parse_json(data: bytes, path: Path) -> Any:
    """Parse JSON as :func:`read_json` does; ``path`` is named in the error."""
    try:
        return strict_json(data)
    except ValueError as error:
        raise CorruptFileError(f"{path} is not the JSON that was written: {error}.") from None


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable; a no-op where folders cannot be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn the errors of a full, read-only or forbidden disk into one line that names the path."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file would be larger than this process may write",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission is denied",
        errno.EPERM: "permission is denied",
        errno.EIO: "the disk reports an input/output error",
        errno.ENOENT: "its folder does not exist",
        errno.EISDIR: "it is a folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
    }
    try:
        yield
    except OSError as error:
        if error.errno in reasons:
            raise StorageError(f"Cannot write {path}: {reasons[error.errno]}.") from error
        raise


def refuse_network_drive(folder: Path, *, remedy: str = "--set run.folder=...", mounts: Path = MOUNTS) -> None:
    """Refuse folders on which SQLite's locks are not reliable.

    Args:
        folder: Where the database is to lie.
        remedy: How to choose another folder.
        mounts: Where the system lists its file systems.

    Raises:
        StorageError: ``folder`` is on a network file system.
    """
    kind = file_system(folder, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageError(
            f"{folder} is on a network file system ({kind}), where SQLite's locks and WAL are not reliable and records "
            f"could be damaged. Choose a folder on a local disk ({remedy})."
        )


def file_system(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the file system that holds ``folder``, or None where the system does not say."""
    if not mounts.exists():
        return None
    place = str(folder.resolve())
    best, kind = "", None
    for line in mounts.read_text().splitlines():
        _, mount, this_kind, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, this_kind
    return kind
