"""Which generated sources the user has read and approved, by the SHA-256 of their text, across runs."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chiasma.core.errors import ConfigError
from chiasma.core.files import read_json, storage_errors, write_json
from chiasma.store.folders import ledger_folder

FOLDER = "trusted-sources"
FEWEST_DIGITS = 8
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BEGINNING = re.compile(rf"[0-9a-f]{{{FEWEST_DIGITS},64}}")


@dataclass(frozen=True)
class Approval:
    """A source that the user has approved.

    Attributes:
        sha256: Of its text.
        when: In seconds since 1970.
        named: Where the user met it, such as ``model.fusion``; empty where it was approved by a program.
    """

    sha256: str
    when: float
    named: str


def trust_source(sha256: str, *, named: str = "", folder: Path | None = None) -> Path:
    """Record that the user approves a source, and return where.

    Args:
        sha256: Of its text, in 64 hexadecimal digits.
        named: Where the user met it.
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
    write_json(path, {"approved": time.time(), "named": named})
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


def approvals(*, folder: Path | None = None) -> list[Approval]:
    """Return everything that the user has approved, oldest first."""
    place = _folder(folder)
    if not place.is_dir():
        return []
    found: list[Approval] = []
    for path in place.iterdir():
        if _SHA256.fullmatch(path.name):
            known = read_json(path)
            found.append(Approval(path.name, float(known["approved"]), str(known.get("named", ""))))
    return sorted(found, key=lambda each: (each.when, each.sha256))


def meant(text: str, known: Mapping[str, str], *, option: str) -> str:
    """Return the hash that a user means by it or by its beginning.

    Args:
        text: What the user wrote.
        known: What each hash names that could be meant.
        option: What it was written for.

    Raises:
        ConfigError: It is no hash, or means none or several of those that are known; they are named.
    """
    if not _BEGINNING.fullmatch(text):
        raise ConfigError(
            f"{option}: a source is named by its SHA-256 in 64 hexadecimal digits, or by the first {FEWEST_DIGITS} or "
            f"more of them, but got {text!r}."
        )
    found = sorted(sha256 for sha256 in known if sha256.startswith(text))
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{sha256} ({name})" if name else sha256 for sha256, name in sorted(known.items())[:5])
    if found:
        raise ConfigError(f"{option}: {text} is the beginning of {len(found)} hashes: {there}.")
    raise ConfigError(f"{option}: {text} names no source here. There {f'are: {there}' if there else 'is none'}.")


def _folder(folder: Path | None) -> Path:
    return (ledger_folder() if folder is None else folder) / FOLDER
