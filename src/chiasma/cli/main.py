"""``chiasma VERB``: the process boundary, where errors become one line and an exit code."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from chiasma.core.errors import ChiasmaError, ConfigError, LeaderFailedError
from chiasma.core.launch import launched_ranks, own_rank

USAGE, FAILURE, INTERRUPTED = 2, 1, 130
TOGETHER = ("train", "resume")
LONGEST_LINE = 300
_OVERRIDE = re.compile(r"[A-Za-z_][\w.\-]*=")


class StoppedByUserError(ChiasmaError):
    """Ctrl-C came before there was anything to hand back."""


class Verbs(TyperGroup):
    """The verbs, with one-line errors: exit code 2 for usage and settings, 1 for failures, 130 for Ctrl-C."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:
        """Run one command line and leave the process; the traceback is shown only with ``--debug``."""
        words = spread_overrides(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            _refuse_ranks(words)
            _quieten_ranks()
            code = super().main(args=words, prog_name=prog_name or "chiasma", **extra)
        except Exception as error:  # noqa: BLE001 the process boundary: whatever went wrong becomes one line
            code = report_error(error, debug="--debug" in words)
        sys.exit(code if isinstance(code, int) else 0)


def spread_overrides(words: Sequence[str]) -> list[str]:
    """Return the words with ``--set a=1 b=2`` written as ``--set a=1 --set b=2``."""
    spread: list[str] = []
    within = False
    for position, word in enumerate(words):
        if word == "--":
            return [*spread, *words[position:]]
        if within and _OVERRIDE.match(word) and spread[-1] != "--set":
            spread.append("--set")
        elif not (spread and spread[-1] == "--set"):
            within = word == "--set"
        spread.append(word)
    return spread


def report_error(error: Exception, *, debug: bool, traceback_by: str = "--debug") -> int:
    """Print one line for an error and return the exit code.

    Args:
        error: What went wrong.
        debug: Print the traceback too.
        traceback_by: How a user asks for it.
    """
    if isinstance(error, BrokenPipeError):
        # The reader of a pipe is gone; a second complaint while Python flushes would help nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    message, code = _one_line(error, hint="" if debug else f" Run again with {traceback_by} for the traceback.")
    if message:
        rank = f" of rank {own_rank()}" if launched_ranks() > 1 else ""
        print(f"chiasma: error{rank}: {message}", file=sys.stderr)
    return code


def _refuse_ranks(words: Sequence[str]) -> None:
    """Refuse to do with each of several processes what one process does.

    Raises:
        ConfigError: ``torchrun`` started several, and the verb is not one that they do together.
    """
    ranks = launched_ranks()
    if ranks > 1 and words and not words[0].startswith("-") and words[0] not in TOGETHER:
        raise ConfigError(
            f"torchrun started {ranks} processes, but chiasma {words[0]} is done by one: start it without torchrun. "
            f"Several processes do {' and '.join(TOGETHER)}."
        )


def _quieten_ranks() -> None:
    """Keep torch, which is not imported yet, from warning on each rank that no part of the model has been idle."""
    if launched_ranks() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _one_line(error: Exception, *, hint: str) -> tuple[str, int]:
    usage_error = typer.BadParameter.__mro__[1]
    if isinstance(error, usage_error):
        return _usage(error)
    text = " ".join(str(error).split())
    if isinstance(error, LeaderFailedError):
        return "", FAILURE
    if isinstance(error, ConfigError):
        return text, USAGE
    if isinstance(error, ChiasmaError):
        return text, INTERRUPTED if isinstance(error, StoppedByUserError) else FAILURE
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or ''}".rstrip(": ") + ".", FAILURE
    # Another library's error: some are whole logs.
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    short = line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."
    return f"{type(error).__name__}: {short}{hint}", FAILURE


def _usage(error: Any) -> tuple[str, int]:
    context = error.ctx
    text = " ".join(error.format_message().split())
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help())
        return "", USAGE
    hint = f" Try '{context.command_path} --help'." if context is not None else ""
    return f"{text.rstrip('.?')}{'?' if text.endswith('?') else '.'}{hint}", USAGE


app = typer.Typer(
    name="chiasma",
    cls=Verbs,
    help="Evolve image+text classifiers, and prove what the evolution gained.",
    epilog="Start with: chiasma evolve --budget 3m",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def run() -> None:
    """Run ``chiasma`` with the process's own arguments."""
    typer.main.get_command(app).main(prog_name="chiasma")


from chiasma.cli import (  # noqa: E402
    benchmark_verbs,
    data_verbs,
    evolve_verbs,
    machine_verbs,
    meta_verbs,
    model_verbs,
    run_verbs,
    search_verbs,
    settings_verbs,
)

for _group in (
    evolve_verbs,
    search_verbs,
    benchmark_verbs,
    meta_verbs,
    model_verbs,
    run_verbs,
    data_verbs,
    settings_verbs,
    machine_verbs,
):
    _group.register(app)
