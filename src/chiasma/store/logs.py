"""Structured logs: one JSON object a line in the run's folder, and readable lines on the console."""

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from chiasma.core.files import storage_errors
from chiasma.store.secrets import redact, redact_json

ROOT = "chiasma"


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON, without secrets; ``extra={"data": {...}}`` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        data = getattr(record, "data", None)
        if data is not None:
            line["data"] = json.loads(json.dumps(data, default=str))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(redact_json(line), ensure_ascii=False)


class RunLogFile(logging.FileHandler):
    """Appends to ``log.jsonl``; a full disk loses lines here and is reported by whatever must be stored."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Drop the line: a log must never stop a run."""


class RedactedText(logging.Formatter):
    """Formats a record as readable text without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


@contextmanager
def log_to(folder: Path, *, level: int = logging.INFO) -> Generator[Path]:
    """Write everything that chiasma logs inside the block to ``folder/log.jsonl``.

    Raises:
        StorageError: The file cannot be opened.
    """
    path = folder / "log.jsonl"
    with storage_errors(path):
        handler = RunLogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(JsonLines())
    with _attached(handler, level=level):
        yield path


@contextmanager
def log_to_console(console: Console | None = None, *, level: int = logging.WARNING) -> Generator[None]:
    """Show what chiasma logs inside the block on the console, by default standard error."""
    handler = RichHandler(
        console=console or Console(stderr=True), show_path=False, show_time=False, rich_tracebacks=False, markup=False
    )
    handler.setFormatter(RedactedText())
    with _attached(handler, level=level):
        yield


@contextmanager
def _attached(handler: logging.Handler, *, level: int) -> Generator[None]:
    logger = logging.getLogger(ROOT)
    handler.setLevel(level)
    previous = logger.level
    logger.setLevel(min(level, previous or level))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous)
        handler.close()
