"""``evolve``, ``train`` and ``resume``: the verbs that make runs."""

import time
from typing import Annotated

import typer

from chiasma.cli.options import (
    DataArgument,
    Debug,
    Generator,
    Policy,
    Replay,
    RunArgument,
    RunFolder,
    Settings,
    Usd,
    command_line,
    examples,
    takes_settings,
    writing,
)

BUDGET = typer.Option(
    "--budget", metavar="TIME|TRIALS", help="What to spend: 90s, 10m, 1h30m, or 200 trials.", show_default="10m"
)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(
        epilog=examples(
            "chiasma evolve --budget 3m",
            "chiasma evolve memes.jsonl --image img --text text --label label --budget 1h",
        )
    )(evolve)
    app.command(
        epilog=examples(
            "chiasma train --config cross_attention", "chiasma train memes.jsonl --set model.dim=128 optim.lr=3e-4"
        )
    )(train)
    app.command(epilog=examples("chiasma resume latest", "chiasma resume evolve-20260312 --budget 1h"))(resume)


@takes_settings()
def evolve(
    data: DataArgument = None,
    *,
    generator: Generator = None,
    policy: Policy = None,
    replay: Replay = None,
    budget: Annotated[str | None, BUDGET] = None,
    usd: Usd = None,
    settings: Settings,
) -> None:
    """Search for the best classifier within a budget, and prove what it gains on a sealed test split."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_run
    from chiasma.experiment.evolve import evolve as run_evolve

    named = writing(generator, policy=policy, replay=replay, usd=usd)
    config = settings.config_for(data, run__budget=budget, **named)
    with progress() as console:
        result = run_evolve(config, console=console, command=command_line(), started=process_start())
    print_run(result)


@takes_settings()
def train(data: DataArgument = None, *, settings: Settings) -> None:
    """Train one design, measure it on the select split, and save it; the test split stays sealed.

    On several devices: torchrun --nproc_per_node=2 -m chiasma train ...
    """
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_result
    from chiasma.experiment.train_run import train as run_train

    config = settings.config_for(data)
    with progress() as console:
        result = run_train(config, console=console, command=command_line())
    print_result(result)


def process_start() -> float:
    """Return the value of ``time.monotonic()`` at which this process began: a budget counts from there."""
    import psutil

    return time.monotonic() - max(0.0, time.time() - psutil.Process().create_time())


def resume(
    run: RunArgument,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME|TRIALS", help="A new total budget.", show_default="unchanged"),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option("--executor", metavar="local|ray", help="Where workers run now.", show_default="unchanged"),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="HOST:PORT", help="The Ray cluster to join.", show_default="unchanged"),
    ] = None,
    run_folder: RunFolder = None,
    debug: Debug = False,
) -> None:
    """Continue an interrupted run, to the same result as if it had not been interrupted."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_result
    from chiasma.experiment.runs import find_folder, resume_run

    path = find_folder(run, run_folder)
    with progress() as console:
        result = resume_run(
            path,
            budget=budget,
            executor=executor,
            ray_address=ray_address,
            console=console,
            started=process_start(),
        )
    print_result(result)
