"""The tables of a run's database, and their rows as frozen values."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chiasma.core.outcome import Failed, Rejected, Scored, outcome_from_json

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE candidates (
    number INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    proposer TEXT NOT NULL,
    generation INTEGER NOT NULL,
    genome TEXT NOT NULL,
    design TEXT NOT NULL,
    parents TEXT NOT NULL,
    edit TEXT NOT NULL,
    created REAL NOT NULL
) STRICT;
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    candidate INTEGER REFERENCES candidates (number),
    rung INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    outcome TEXT,
    seconds REAL,
    extra TEXT NOT NULL DEFAULT '{}',
    started REAL NOT NULL,
    finished REAL
) STRICT;
CREATE INDEX jobs_by_candidate ON jobs (candidate);
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class CandidateRow:
    """A design that was proposed, with the story of how it came to be.

    Attributes:
        number: The K of ``RUN#K``, counted from 1.
        hash: Canonical hash of the design, unique in the run.
        genome: The proposer's own form of it, as plain JSON.
        design: The design as plain JSON.
        created: Seconds since 1970.
    """

    number: int
    hash: str
    proposer: str
    generation: int
    genome: Any
    design: Mapping[str, Any]
    parents: tuple[str, ...]
    edit: str
    created: float


@dataclass(frozen=True)
class JobRow:
    """One training or measurement.

    Attributes:
        number: Order in which jobs were first begun.
        attempt: How often it was begun.
        outcome: None while it has not finished.
        seconds: What it cost; None while it has not finished.
    """

    number: int
    key: str
    candidate: int | None
    rung: int
    seed: int
    purpose: str
    attempt: int
    outcome: Scored | Rejected | Failed | None
    seconds: float | None
    extra: Mapping[str, Any]
    started: float
    finished: float | None


@dataclass(frozen=True)
class EventRow:
    """Something that happened, in order; ``time`` is in seconds since 1970."""

    number: int
    time: float
    kind: str
    data: Mapping[str, Any]


def candidate_row(row: sqlite3.Row) -> CandidateRow:
    """Read one row of ``candidates``."""
    values: dict[str, Any] = dict(row)
    values["genome"] = json.loads(values["genome"])
    values["design"] = json.loads(values["design"])
    values["parents"] = tuple(json.loads(values["parents"]))
    return CandidateRow(**values)


def job_row(row: sqlite3.Row) -> JobRow:
    """Read one row of ``jobs``."""
    values: dict[str, Any] = dict(row)
    values["outcome"] = None if values["outcome"] is None else outcome_from_json(values["outcome"])
    values["extra"] = json.loads(values["extra"])
    return JobRow(**values)


def event_row(row: sqlite3.Row) -> EventRow:
    """Read one row of ``events``."""
    values: dict[str, Any] = dict(row)
    values["data"] = json.loads(values["data"])
    return EventRow(**values)
