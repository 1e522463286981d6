"""The ledger of test openings: how often each dataset's sealed test split has been looked at, across runs."""

import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from chiasma.core.files import refuse_network_drive, storage_errors
from chiasma.core.opening import TestOpening
from chiasma.store.database import check_version, connect, sqlite_errors, transaction
from chiasma.store.lock import queued

SCHEMA_VERSION = 1

_SCHEMA = (
    """CREATE TABLE openings (
        number INTEGER PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        run TEXT NOT NULL,
        verb TEXT NOT NULL,
        time REAL NOT NULL
    ) STRICT""",
    "CREATE INDEX openings_by_fingerprint ON openings (fingerprint)",
    f"PRAGMA user_version={SCHEMA_VERSION}",
)


@dataclass(frozen=True)
class OpeningRow:
    """One look at a test split; ``time`` is in seconds since 1970."""

    fingerprint: str
    run: str
    verb: str
    time: float


class OpeningLedger:
    """Counts openings in one small database of the user's; several processes may write at once.

    Args:
        folder: Where it lies; :func:`chiasma.store.folders.ledger_folder` is the usual place.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / "openings.db"

    def open_test(self, fingerprint: str, *, run: str, verb: str, once: bool = False) -> TestOpening:
        """Record an opening durably and return its receipt.

        Args:
            fingerprint: The dataset's fingerprint.
            run: The run that looks.
            verb: What looks: ``evolve``, ``evaluate`` or ``benchmark``.
            once: This run and verb open this test split once in their life, so that a resume after a crash returns
                the first receipt instead of counting another.

        Raises:
            StorageError: The ledger cannot be written to, so the test split stays sealed.
        """
        with self._writing() as database:
            number = None
            if once:
                row = database.execute(
                    "SELECT min(number) FROM openings WHERE fingerprint = ? AND run = ? AND verb = ?",
                    (fingerprint, run, verb),
                ).fetchone()
                number = row[0]
            if number is None:
                number = database.execute(
                    "INSERT INTO openings (fingerprint, run, verb, time) VALUES (?, ?, ?, ?) RETURNING number",
                    (fingerprint, run, verb, time.time()),
                ).fetchone()[0]
            (before,) = database.execute(
                "SELECT count(*) FROM openings WHERE fingerprint = ? AND number < ?", (fingerprint, number)
            ).fetchone()
        return TestOpening(fingerprint=fingerprint, run=run, verb=verb, before=before)

    def count(self, fingerprint: str) -> int:
        """Return how often this dataset's test split has been opened."""
        return len(self.openings(fingerprint))

    def openings(self, fingerprint: str) -> list[OpeningRow]:
        """Return every opening of this dataset's test split, oldest first."""
        if not self.path.exists():
            return []
        with closing(connect(self.path, write=False)) as database, sqlite_errors(self.path):
            # A process that was killed while it made the file leaves it empty.
            if not database.execute("SELECT 1 FROM sqlite_schema").fetchone():
                return []
            check_version(database, self.path, known=SCHEMA_VERSION)
            rows = database.execute(
                "SELECT fingerprint, run, verb, time FROM openings WHERE fingerprint = ? ORDER BY number",
                (fingerprint,),
            ).fetchall()
        return [OpeningRow(*row) for row in rows]

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """Open one transaction, one process after the other; make the database where there is none."""
        folder = self.path.parent
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        refuse_network_drive(folder, remedy="set CHIASMA_STATE")
        # Queued by the kernel's lock: many processes at SQLite's own door could starve one until its timeout.
        with queued(self.path.with_suffix(".lock")), closing(connect(self.path, write=True)) as database:
            with transaction(database, self.path):
                if not database.execute("SELECT 1 FROM sqlite_schema").fetchone():
                    for statement in _SCHEMA:
                        database.execute(statement)
            check_version(database, self.path, known=SCHEMA_VERSION)
            with transaction(database, self.path):
                yield database
