"""``benchmark``: the verb that says what a discovery is worth."""

from typing import Annotated

import typer

from chiasma.cli.options import Settings, command_line, examples, takes_settings
from chiasma.core.errors import ConfigError

WITHOUT = ("config", "image", "text", "label", "id", "split", "group", "image_dir", "features", "task")


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(
        epilog=examples(
            "chiasma benchmark --candidate latest#7 --tasks digit_claims --seeds 5",
            "chiasma benchmark --candidate latest#7 --tasks cifar10=cifar10/,imdb=imdb/ --seeds 5 --preset full",
        )
    )(benchmark)


@takes_settings(without=WITHOUT)
def benchmark(
    *,
    candidate: Annotated[
        str, typer.Option("--candidate", metavar="RUN#K", help="A mechanism that search attention found.")
    ],
    tasks: Annotated[
        str,
        typer.Option("--tasks", metavar="NAME[=PATH],...", help="cifar10, imdb, digit_claims, easy_vqa."),
    ] = "digit_claims",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Paired trainings of every arm.")] = 5,
    preset: Annotated[str, typer.Option("--preset", metavar="SIZE", help="cpu or full.")] = "cpu",
    arms: Annotated[
        str,
        typer.Option("--arms", metavar="NAME,...", help="standard, matched_flops, matched_size, mean."),
    ] = "standard,matched_flops,matched_size",
    settings: Settings,
) -> None:
    """Compare a discovered attention with the standard one on sealed test splits, on paired seeds."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_benchmark
    from chiasma.experiment.benchmark import benchmark as run_benchmark
    from chiasma.experiment.benchmark_judge import Order
    from chiasma.experiment.benchmark_tasks import task_configs
    from chiasma.experiment.discoveries import mechanism_of

    if "#" not in candidate:
        raise ConfigError(f"--candidate: expected RUN#K, such as latest#7, but got {candidate!r}.")
    configs = task_configs(tasks, preset=preset, overrides=settings.overrides or [], values=settings.values())
    order = Order.from_dict(
        {
            "reference": candidate,
            "attention": mechanism_of(candidate, settings.run_folder).to_dict(),
            "tasks": {name: config.to_dict() for name, config in configs.items()},
            "seeds": seeds,
            "arms": [name.strip() for name in arms.split(",")],
        },
        where="benchmark",
    )
    with progress() as console:
        result = run_benchmark(order, console=console, command=command_line())
    print_benchmark(result)
