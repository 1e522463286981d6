"""SQLite as this project uses it: write-ahead log, every commit on disk, errors in one line."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from chiasma.core.errors import CorruptFileError, StorageError

BUSY_SECONDS = 60.0

_STORAGE_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file or its file system is read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an input/output error",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_PERM: "permission is denied",
}
_CORRUPT_REASONS = {
    sqlite3.SQLITE_CORRUPT: "its pages are damaged",
    sqlite3.SQLITE_NOTADB: "it is not a database",
}


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Open a database whose transactions are begun by hand.

    Args:
        path: The file; made when missing and ``write`` is set.
        write: Open for writing with ``synchronous=FULL``, so that a commit is on disk when it returns.

    Raises:
        StorageError: The file cannot be opened or written to.
        CorruptFileError: The file is not a database or is damaged.
    """
    with sqlite_errors(path):
        database = sqlite3.connect(
            _address(path, write=write), uri=True, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=256
        )
        try:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA foreign_keys=ON")
            if write:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=FULL")
            else:
                database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error:
            database.close()
            raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Generator[sqlite3.Connection]:
    """Commit everything in the block, or nothing. Whatever was committed survives ``kill -9``."""
    with sqlite_errors(path):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


@contextmanager
def sqlite_errors(path: Path) -> Generator[None]:
    """Turn SQLite's errors about disk and damage into one line that names the file; bugs of ours pass unchanged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Extended codes keep the primary code in the low byte.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _STORAGE_REASONS:
            raise StorageError(f"Cannot use {path}: {_STORAGE_REASONS[code]} ({error}).") from error
        if code in _CORRUPT_REASONS:
            raise CorruptFileError(f"{path} cannot be used: {_CORRUPT_REASONS[code]} ({error}).") from error
        raise


def check_version(database: sqlite3.Connection, path: Path, *, known: int) -> None:
    """Refuse a file that a newer chiasma wrote.

    Raises:
        StorageError: The file's schema version is not ``known``; both are named.
    """
    with sqlite_errors(path):
        (found,) = database.execute("PRAGMA user_version").fetchone()
    if found > known:
        raise StorageError(
            f"{path} has schema version {found}, but this chiasma knows versions up to {known}. "
            "A newer chiasma wrote it: upgrade to read it."
        )
    if found < 1:
        raise CorruptFileError(f"{path} has schema version {found}, but versions start at 1: it is not a chiasma file.")


def _address(path: Path, *, write: bool) -> str:
    address = path.absolute().as_uri()
    if write:
        return f"{address}?mode=rwc"
    # On a read-only disk SQLite cannot make its shared-memory file; without a write-ahead log it needs none.
    waiting = path.with_name(path.name + "-wal").exists()
    settled = not waiting and not os.access(path.parent, os.W_OK)
    return f"{address}?mode=ro&immutable=1" if settled else f"{address}?mode=ro"
