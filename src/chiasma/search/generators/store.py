"""What was asked and what was answered, on disk before it is used, and what it cost. Rows are added, never changed."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from chiasma.core.files import refuse_network_drive
from chiasma.core.spec import canonical_json, strict_json
from chiasma.search.generators.generator import Answer, Reason, Request, UnansweredError
from chiasma.store.database import check_version, connect, sqlite_errors, transaction
from chiasma.store.secrets import redact, redact_json

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE requests (
    hash TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    created REAL NOT NULL
) STRICT;
CREATE TABLE sent (
    number INTEGER PRIMARY KEY,
    request TEXT NOT NULL REFERENCES requests (hash),
    reserved REAL NOT NULL,
    started REAL NOT NULL
) STRICT;
CREATE TABLE settled (
    sent INTEGER PRIMARY KEY REFERENCES sent (number),
    outcome TEXT NOT NULL,
    cost REAL NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    answer_tokens INTEGER NOT NULL,
    finished REAL NOT NULL
) STRICT;
CREATE TABLE results (
    hash TEXT PRIMARY KEY REFERENCES requests (hash),
    answer TEXT,
    reason TEXT,
    message TEXT,
    for_good INTEGER NOT NULL,
    created REAL NOT NULL
) STRICT;
CREATE TABLE conversations (
    candidate TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    created REAL NOT NULL
) STRICT;
"""

Result = Answer | UnansweredError


@dataclass(frozen=True)
class Costs:
    """What was spent.

    Attributes:
        dollars: Of all calls; one whose end is unknown is counted at its greatest possible cost.
        prompt_tokens: Tokens that were read.
        answer_tokens: Tokens that were written.
        calls: How many there were, by outcome; ``unknown`` for those that were under way when a process died.
        answers: Requests that were answered.
    """

    dollars: float
    prompt_tokens: int
    answer_tokens: int
    calls: Mapping[str, int]
    answers: int


class AnswerStore:
    """Requests, answers and costs in one SQLite file. Whatever a method has returned from survives ``kill -9``.

    A request is stored before it is sent, and an answer, with what it cost, in one transaction before it is used: after
    a kill at any moment no answer that arrived is asked for again. A call that was under way is counted at its greatest
    possible cost, because nobody knows whether it will be charged.

    Args:
        path: The file; made when missing.

    Raises:
        StorageError: The file cannot be written to, or is on a network drive.
        CorruptFileError: It is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        refuse_network_drive(self.path.parent)
        self._database = connect(self.path, write=True)
        try:
            self._begin()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add_request(self, request: Request) -> str:
        """Store a request before it is sent, and return its hash."""
        name = request.content_hash()
        with self._transaction() as database:
            database.execute(
                "INSERT INTO requests VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (name, _masked(request.to_dict()), time.time()),
            )
        return name

    def result(self, name: str) -> Result | None:
        """Return what a request came to, or None while it has not ended."""
        rows = self._query("SELECT answer, reason, message, for_good FROM results WHERE hash = ?", (name,))
        return _result(rows[0]) if rows else None

    def answer(self, name: str) -> Answer | None:
        """Return the answer to a request, or None where there is none."""
        found = self.result(name)
        return found if isinstance(found, Answer) else None

    def add_result(self, name: str, result: Result) -> None:
        """Store what a request came to; the first result stays."""
        with self._transaction() as database:
            _insert_result(database, name, result)

    def send(self, name: str, reserved: float) -> int:
        """Store that a call begins, with its greatest possible cost, and return its number."""
        with self._transaction() as database:
            row = database.execute(
                "INSERT INTO sent (request, reserved, started) VALUES (?, ?, ?) RETURNING number",
                (name, reserved, time.time()),
            ).fetchone()
        return int(row["number"])

    def settle(self, number: int, outcome: str, *, cost: float, answer: Answer | None = None) -> None:
        """Store how a call ended and what it cost, and in the same transaction its answer if it brought one."""
        tokens = (answer.prompt_tokens, answer.answer_tokens) if answer else (0, 0)
        with self._transaction() as database:
            database.execute(
                "INSERT INTO settled VALUES (?, ?, ?, ?, ?, ?)", (number, outcome, cost, *tokens, time.time())
            )
            if answer is not None:
                (name,) = database.execute("SELECT request FROM sent WHERE number = ?", (number,)).fetchone()
                _insert_result(database, name, answer)

    @property
    def spent(self) -> float:
        """Return the dollars spent; a call whose end is unknown is counted at its greatest possible cost."""
        ((dollars,),) = self._query(
            "SELECT coalesce(sum(coalesce(cost, reserved)), 0.0) FROM sent LEFT JOIN settled ON sent = sent.number"
        )
        return float(dollars)

    def costs(self) -> Costs:
        """Return what was spent, and on what."""
        rows = self._query(
            "SELECT coalesce(outcome, 'unknown') AS outcome, count(*) AS calls FROM sent"
            " LEFT JOIN settled ON sent = sent.number GROUP BY 1 ORDER BY 1"
        )
        ((read, written),) = self._query(
            "SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(answer_tokens), 0) FROM settled"
        )
        ((answers,),) = self._query("SELECT count(*) FROM results WHERE answer IS NOT NULL")
        calls = {str(row["outcome"]): int(row["calls"]) for row in rows}
        return Costs(self.spent, int(read), int(written), calls, int(answers))

    def add_conversation(self, candidate: str, content: Sequence[Mapping[str, Any]]) -> None:
        """Store the conversation that led to a candidate, by the candidate's hash; the first one stays."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO conversations VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (candidate, _masked(list(content)), time.time()),
            )

    def conversation(self, candidate: str) -> list[dict[str, Any]] | None:
        """Return the conversation that led to a candidate, or None where there was none."""
        rows = self._query("SELECT content FROM conversations WHERE candidate = ?", (candidate,))
        return cast("list[dict[str, Any]]", strict_json(rows[0]["content"])) if rows else None

    def _begin(self) -> None:
        with sqlite_errors(self.path):
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                with transaction(self._database, self.path) as database:
                    # Two processes may begin at once; whoever comes second finds it made.
                    (version,) = database.execute("PRAGMA user_version").fetchone()
                    for statement in SCHEMA.split(";") if version == 0 else ():
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version={max(version, SCHEMA_VERSION)}")
        check_version(self._database, self.path, known=SCHEMA_VERSION)

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with sqlite_errors(self.path):
            return self._database.execute(statement, values).fetchall()

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._database, self.path)


def _masked(value: Any) -> str:
    """Return JSON without the secrets it holds."""
    return canonical_json(redact_json(value))


def _insert_result(database: sqlite3.Connection, name: str, result: Result) -> None:
    if isinstance(result, Answer):
        values = (_masked(result.to_dict()), None, None, False)
    else:
        values = (None, result.reason, redact(str(result)), result.for_good)
    database.execute(
        "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (name, *values, time.time())
    )


def _result(row: sqlite3.Row) -> Result:
    if row["answer"] is not None:
        return Answer.from_json(row["answer"])
    reason = cast("Reason", row["reason"])
    return UnansweredError(row["message"], reason=reason, for_good=bool(row["for_good"]))
