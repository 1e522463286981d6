"""``meta-train``: the verb that learns a controller."""

from pathlib import Path
from typing import Annotated

import typer

from chiasma.cli.options import DataArgument, Settings, command_line, examples, takes_settings


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(
        "meta-train",
        epilog=examples(
            "chiasma meta-train --config quick --runs 20 --to controller",
            "chiasma train memes.jsonl --set controller.kind=lstm controller.start=controller",
        ),
    )(meta_train)


@takes_settings(without=("workers",))
def meta_train(
    data: DataArgument = None,
    *,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Short trainings to learn from.")] = 20,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where the controller goes.", show_default="in the run's folder"),
    ] = None,
    settings: Settings,
) -> None:
    """Learn a controller over many short trainings, for controller.start in later ones."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_controller
    from chiasma.experiment.meta_train import meta_train as run_meta_train

    config = settings.config_for(data)
    with progress() as console:
        result = run_meta_train(config, runs=runs, to=to, console=console, command=command_line())
    print_controller(result)
