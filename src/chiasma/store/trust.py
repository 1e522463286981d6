"""Which generated sources the user has read and approved, by the SHA-256 of their text, across runs."""

import re
import time
from pathlib import Path

from chiasma.core.errors import ConfigError
from chiasma.core.files import storage_errors, write_json
from chiasma.store.folders import ledger_folder

FOLDER = "trusted-sources"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def trust_source(sha256: str, *, folder: Path | None = None) -> Path:
    """Record that the user approves a source, and return where.

    Args:
        sha256: Of its text, in 64 hexadecimal digits.
        folder: Where approvals lie; below ``$CHIASMA_STATE`` when None.

    Raises:
        ConfigError: ``sha256`` is not one.
        StorageError: The folder cannot be written to.
    """
    if not _SHA256.fullmatch(sha256):
        raise ConfigError(f"--trust: a source is approved by its SHA-256 in 64 hexadecimal digits, but got {sha256!r}.")
    path = _folder(folder) / sha256
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"approved": time.time()})
    return path


def is_trusted(sha256: str, *, folder: Path | None = None) -> bool:
    """Return whether the user has approved a source; False where approvals cannot be read, as in the jail."""
    try:
        return bool(_SHA256.fullmatch(sha256)) and (_folder(folder) / sha256).is_file()
    except (OSError, RuntimeError):
        return False


def forget_source(sha256: str, *, folder: Path | None = None) -> None:
    """Take an approval back; harmless where there is none."""
    if _SHA256.fullmatch(sha256):
        (_folder(folder) / sha256).unlink(missing_ok=True)


def _folder(folder: Path | None) -> Path:
    return (ledger_folder() if folder is None else folder) / FOLDER
