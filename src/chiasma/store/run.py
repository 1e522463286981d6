"""The truth about a run: one folder, one database, one writer, any number of readers.

A run folder holds ``config.json`` (resolved), ``provenance.json``, ``run.db``, ``run.lock``, ``log.jsonl``,
``checkpoints/``, ``model/``, ``report.html`` and ``quarantine.jsonl``.
"""

import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

from chiasma.core.errors import ConfigError, StorageError
from chiasma.core.files import read_json, refuse_network_drive, storage_errors, sync_folder, write_json
from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.core.spec import canonical_json
from chiasma.store.database import check_version, connect, sqlite_errors, transaction
from chiasma.store.lock import RunLock, is_locked
from chiasma.store.rows import SCHEMA, SCHEMA_VERSION, CandidateRow, EventRow, JobRow, candidate_row, event_row, job_row
from chiasma.store.secrets import redact_json

RunStatus = Literal["running", "finished", "stopped", "failed"]


class RunStore:
    """A run on disk. Whatever a method has returned from survives ``kill -9`` and a power cut.

    Made by :meth:`create` or :meth:`open`; a context manager. One process writes, any number read, none of them waits
    for another. A store belongs to the process that opened it and must not be used after a fork.
    """

    def __init__(self, path: Path, *, lock: RunLock | None) -> None:
        self.path = path
        self._lock = lock
        self._pid = os.getpid()
        self._database: sqlite3.Connection | None = connect(path / "run.db", write=lock is not None)
        check_version(self._database, path / "run.db", known=SCHEMA_VERSION)

    @classmethod
    def create(cls, root: Path, *, verb: str, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> Self:
        """Make a new run folder below ``root`` and open it for writing.

        The folder appears complete or not at all.

        Args:
            root: Where runs lie; made when missing.
            verb: What the run does; the first part of its id.
            config: The resolved configuration, as plain JSON.
            provenance: What :func:`chiasma.store.provenance.provenance` returned.

        Raises:
            StorageError: The folder cannot be written to, or is on a network drive.
        """
        root = Path(root)
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        refuse_network_drive(root)
        identity = new_run_id(verb)
        draft, path = root / f".{identity}.tmp", root / identity
        with storage_errors(draft):
            draft.mkdir()
        write_json(draft / "config.json", redact_json(config))
        write_json(draft / "provenance.json", redact_json(provenance))
        _create_database(draft / "run.db")
        with storage_errors(path):
            os.rename(draft, path)
            sync_folder(root)
        return cls.open(path, write=True)

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> Self:
        """Open a run folder.

        Args:
            path: The folder; :func:`chiasma.store.folders.find_run` finds it by name.
            write: Become its only writer.

        Raises:
            RunBusyError: ``write`` is set and another process is writing.
            ConfigError: The folder is not a run.
            StorageError: It was written by a newer version, or cannot be written to.
            CorruptFileError: The database is damaged.
        """
        path = Path(path)
        if not (path / "run.db").is_file():
            raise ConfigError(f"{path} is not a run folder: it has no run.db.")
        if not write:
            return cls(path, lock=None)
        refuse_network_drive(path)
        lock = RunLock(path / "run.lock")
        try:
            return cls(path, lock=lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Close the database and let another process write; may be called twice."""
        if self._pid != os.getpid():
            return
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        """Return the run's name, which is its folder's."""
        return self.path.name

    @property
    def model_folder(self) -> Path:
        """Return where the saved model lies."""
        return self.path / "model"

    @property
    def checkpoints_folder(self) -> Path:
        """Return where unfinished trainings keep their checkpoints."""
        return self.path / "checkpoints"

    @property
    def config(self) -> dict[str, Any]:
        """Return the resolved configuration the run was made with."""
        return read_json(self.path / "config.json")

    @property
    def provenance(self) -> dict[str, Any]:
        """Return where the run came from."""
        return read_json(self.path / "provenance.json")

    @property
    def status(self) -> RunStatus:
        """Return how the run stands; a ``running`` one that nobody writes to was interrupted."""
        (value,) = self._query("SELECT value FROM meta WHERE name = 'status'")[0]
        return value

    @property
    def is_interrupted(self) -> bool:
        """Return whether the run was killed: it says ``running``, but no process is writing."""
        return self.status == "running" and not is_locked(self.path / "run.lock")

    def set_status(self, status: RunStatus) -> None:
        """Record how the run stands."""
        if status not in get_args(RunStatus):
            raise ValueError(f"status must be one of {', '.join(get_args(RunStatus))}, but got {status!r}.")
        with self._transaction() as database:
            database.execute("UPDATE meta SET value = ? WHERE name = 'status'", (status,))

    def add_candidate(
        self,
        hash: str,
        *,
        proposer: str,
        generation: int,
        genome: Any,
        design: Mapping[str, Any],
        parents: Sequence[str] = (),
        edit: str = "",
    ) -> int:
        """Record a candidate and return its number; a design that is known keeps its number and its first story."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO candidates (hash, proposer, generation, genome, design, parents, edit, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hash) DO NOTHING",
                (
                    hash,
                    proposer,
                    generation,
                    canonical_json(genome),
                    canonical_json(design),
                    canonical_json(list(parents)),
                    edit,
                    time.time(),
                ),
            )
            (number,) = database.execute("SELECT number FROM candidates WHERE hash = ?", (hash,)).fetchone()
        return number

    def candidates(self) -> list[CandidateRow]:
        """Return all candidates in the order they were added."""
        return [candidate_row(row) for row in self._query("SELECT * FROM candidates ORDER BY number")]

    def candidate(self, number: int) -> CandidateRow:
        """Return candidate K.

        Raises:
            ConfigError: The run has no such candidate.
        """
        rows = self._query("SELECT * FROM candidates WHERE number = ?", (number,))
        if not rows:
            ((count,),) = self._query("SELECT count(*) FROM candidates")
            raise ConfigError(f"{self.id} has no candidate {number}: it has {count}, counted from 1.")
        return candidate_row(rows[0])

    def by_hash(self, hash: str) -> CandidateRow | None:
        """Return the candidate with this design hash, or None."""
        rows = self._query("SELECT * FROM candidates WHERE hash = ?", (hash,))
        return candidate_row(rows[0]) if rows else None

    def begin_job(self, key: str, candidate: int | None, *, rung: int, seed: int, purpose: str) -> int:
        """Record that a job starts, or starts again, and return which attempt this is, counted from 1.

        Whoever held an earlier attempt can no longer finish it.

        Args:
            key: The job's identity, equal before and after a resume.
            candidate: Its number, or None for work that belongs to no candidate.

        Raises:
            ValueError: The job has already finished with more than a failure of ours, or the candidate is unknown.
        """
        if candidate is not None:
            self.candidate(candidate)
        with self._transaction() as database:
            row = database.execute(
                "INSERT INTO jobs (key, candidate, rung, seed, purpose, attempt, started) VALUES (?, ?, ?, ?, ?, 1, ?)"
                " ON CONFLICT (key) DO UPDATE SET attempt = attempt + 1, started = excluded.started,"
                " outcome = NULL, seconds = NULL, finished = NULL"
                " WHERE outcome IS NULL OR json_extract(outcome, '$.kind') = 'failed' RETURNING attempt",
                (key, candidate, rung, seed, purpose, time.time()),
            ).fetchone()
        if row is None:
            raise ValueError(f"Job {key!r} has already finished: it must not be begun again.")
        return row["attempt"]

    def finish_job(
        self,
        key: str,
        attempt: int,
        *,
        outcome: Scored | Rejected | Failed,
        seconds: float,
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record what a job came to, exactly once.

        Args:
            attempt: What :meth:`begin_job` returned.
            seconds: What it cost.
            extra: Anything else worth keeping, as plain JSON.

        Returns:
            False, with nothing recorded, where a later attempt has begun or the job has already finished.
        """
        written = canonical_json(redact_json(outcome.to_dict()))
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE jobs SET outcome = ?, seconds = ?, extra = ?, finished = ?"
                " WHERE key = ? AND attempt = ? AND outcome IS NULL",
                (written, seconds, canonical_json(redact_json(extra or {})), time.time(), key, attempt),
            ).rowcount
        return changed == 1

    def job(self, key: str) -> JobRow | None:
        """Return one job, or None while it was never begun."""
        rows = self._query("SELECT * FROM jobs WHERE key = ?", (key,))
        return job_row(rows[0]) if rows else None

    def jobs(self, purpose: str | None = None) -> list[JobRow]:
        """Return all jobs, or those of one purpose, in the order they were first begun."""
        if purpose is None:
            return [job_row(row) for row in self._query("SELECT * FROM jobs ORDER BY number")]
        return [job_row(row) for row in self._query("SELECT * FROM jobs WHERE purpose = ? ORDER BY number", (purpose,))]

    def record_event(self, kind: str, data: Mapping[str, Any]) -> int:
        """Record that something happened, and return its number."""
        return self.record_events([(kind, data)])

    def record_events(self, events: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Record that several things happened, all or none of them, and return the number of the last."""
        number = 0
        with self._transaction() as database:
            for kind, data in events:
                row = database.execute(
                    "INSERT INTO events (time, kind, data) VALUES (?, ?, ?) RETURNING number",
                    (time.time(), kind, canonical_json(redact_json(data))),
                ).fetchone()
                number = row["number"]
        return number

    def events(self, kind: str | None = None) -> list[EventRow]:
        """Return all events, or those of one kind, in order."""
        if kind is None:
            return [event_row(row) for row in self._query("SELECT * FROM events ORDER BY number")]
        return [event_row(row) for row in self._query("SELECT * FROM events WHERE kind = ? ORDER BY number", (kind,))]

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with sqlite_errors(self.path / "run.db"):
            return self._connection().execute(statement, values).fetchall()

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        if self._lock is None:
            raise StorageError(f"Run {self.id} was opened for reading; open it with write=True to change it.")
        return transaction(self._connection(), self.path / "run.db")

    def _connection(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"Run {self.id} was opened by process {self._pid}, but process {os.getpid()} is using it: "
                "SQLite must not be carried through a fork. Open it again in this process."
            )
        if self._database is None:
            raise ValueError(f"Run {self.id} is closed.")
        return self._database


def new_run_id(verb: str) -> str:
    """Return a new id, sortable by time below its verb: ``evolve-20261122-013618-7f3a``."""
    return f"{verb}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _create_database(path: Path) -> None:
    database = connect(path, write=True)
    try:
        with sqlite_errors(path):
            database.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
            database.execute("INSERT INTO meta VALUES ('status', 'running')")
    finally:
        database.close()
