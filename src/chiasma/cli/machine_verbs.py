"""``doctor``: what this machine can do."""

from pathlib import Path

import typer

from chiasma.cli.options import Debug, RunFolder, examples


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(epilog=examples("chiasma doctor"))(doctor)


def doctor(run_folder: RunFolder = None, debug: Debug = False) -> None:
    """Try what Chiasma needs on this machine, and say what to do where it fails."""
    from chiasma.cli.display import table
    from chiasma.experiment.doctor import examine
    from chiasma.store.folders import cache_folder, runs_root

    checks = examine(Path(run_folder) if run_folder else runs_root(), cache_folder())
    table(["check", "state", "found", "remedy"], [(c.name, c.state, c.found, c.remedy) for c in checks])
    if any(check.state == "error" for check in checks):
        raise typer.Exit(1)
