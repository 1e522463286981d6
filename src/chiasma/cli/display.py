"""What the terminal shows: progress on standard error, results on standard output."""

import atexit
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil
import rich.box
import rich.console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from chiasma.cli.main import INTERRUPTED, StoppedByUserError
from chiasma.core.errors import ChiasmaError
from chiasma.core.launch import is_launched, own_rank
from chiasma.store.logs import log_to_console

_PLAIN_SECONDS = 15.0
_PIPE_WIDTH = 200


def output() -> rich.console.Console:
    """Return the console for results; made anew, because tests and pipes replace the stream."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return rich.console.Console(file=sys.stdout, highlight=False, width=width)


class TerminalConsole:
    """Draws progress; the first Ctrl-C or SIGTERM asks for a clean stop, the second ends the process at once.

    On a terminal the last line is live; in a pipe a line is written every fifteen seconds at most.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._console = rich.console.Console(file=sys.stderr, highlight=False)
        self._live: Status | None = None
        self._last_plain = 0.0

    def say(self, text: str) -> None:
        """Show one line that stays."""
        self._console.print(escape(text), soft_wrap=True)

    def status(self, text: str) -> None:
        """Replace the line that says what is happening now."""
        if self._live is not None:
            self._live.update(escape(text))
        elif time.monotonic() - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self.say(text)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT and SIGTERM."""
        if self.interrupted and is_launched():
            return  # torchrun passes on what the terminal has sent to all, and kills whoever takes too long.
        if self.interrupted:
            _end_at_once()
        self.interrupted = True
        # While the interpreter shuts down, Python's handlers are gone, and SIGINT would change the exit code.
        atexit.register(signal.signal, number, signal.SIG_IGN)
        # Not through rich: the handler may have interrupted it while it holds its lock.
        if own_rank() == 0:
            os.write(2, b"\nStopping cleanly; press Ctrl-C again to end at once.\n")


@contextmanager
def progress() -> Iterator[TerminalConsole]:
    """Give long work a console that shows progress and notices Ctrl-C."""
    console = TerminalConsole()
    handlers = {number: signal.signal(number, console.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    live = Status("", console=console._console) if console._console.is_terminal else None
    try:
        if live is not None:
            live.start()
            console._live = live
        with log_to_console(console._console):
            yield console
    except ChiasmaError as error:
        if not console.interrupted:
            raise
        raise StoppedByUserError(str(error)) from error
    finally:
        if live is not None:
            console._live = None
            live.stop()
        # An interrupted process is ending: a second Ctrl-C must still end it at once, with our exit code.
        if not console.interrupted:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print rows; numbers are aligned right and rounded to four digits."""
    kept = [list(row) for row in rows]
    drawn = Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(columns):
        numeric = any(isinstance(row[position], int | float) for row in kept)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in kept:
        drawn.add_row(*(escape(shown(value)) for value in row))
    output().print(drawn)


def pairs(values: Mapping[str, Any]) -> None:
    """Print names with their values, one a line."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        output().print(f"{escape(name):<{width}}  {escape(shown(value))}", soft_wrap=True)


def shown(value: Any) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _end_at_once() -> None:
    """Kill our children and leave without clean-up; what is recorded is durable."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(INTERRUPTED)
