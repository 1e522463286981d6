"""``doctor`` and ``trust``: what this machine can do, and what may run on it."""

from pathlib import Path
from typing import Annotated

import typer

from chiasma.cli.options import Debug, RunFolder, examples


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(epilog=examples("chiasma doctor"))(doctor)
    app.command(epilog=examples("chiasma trust", "chiasma trust --withdraw 3f0c91aa"))(trust)


def doctor(run_folder: RunFolder = None, debug: Debug = False) -> None:
    """Try what Chiasma needs on this machine, and say what to do where it fails."""
    from chiasma.cli.display import table
    from chiasma.experiment.doctor import examine
    from chiasma.store.folders import cache_folder, runs_root

    checks = examine(Path(run_folder) if run_folder else runs_root(), cache_folder())
    table(["check", "state", "found", "remedy"], [(c.name, c.state, c.found, c.remedy) for c in checks])
    if any(check.state == "error" for check in checks):
        raise typer.Exit(1)


def trust(
    withdraw: Annotated[
        list[str] | None,
        typer.Option(
            "--withdraw",
            metavar="SHA256",
            help="Run this source in the jail again; the beginning of its hash will do.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the generated sources that may run outside the jail on this machine, or take that back.

    A source joins them with --trust on a command that holds it, once you have read it (chiasma show RUN#K).
    """
    from datetime import datetime

    from chiasma.cli.display import output, table
    from chiasma.store.trust import approvals, forget_source, meant

    known = {each.sha256: each.named for each in approvals()}
    for sha256 in [meant(text, known, option="--withdraw") for text in withdraw or ()]:
        forget_source(sha256)
        output().print(f"{sha256} runs in the jail again; what is running already goes on.", soft_wrap=True)
    left = approvals()
    if not left:
        output().print("No generated source may run outside the jail.")
        return
    rows = [(each.sha256, f"{datetime.fromtimestamp(each.when):%Y-%m-%d %H:%M}", each.named) for each in left]
    table(["source", "approved", "met as"], rows)
