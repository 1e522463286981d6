"""``benchmark``: the verb that says what a discovery is worth."""

from typing import TYPE_CHECKING, Annotated

import typer

from chiasma.cli.options import DataArgument, Settings, command_line, examples, takes_settings
from chiasma.core.errors import ConfigError

if TYPE_CHECKING:
    from chiasma.experiment.benchmark_judge import Order

OF_DATA = ("config", "image", "text", "label", "id", "split", "group", "image_dir", "features", "task")
"""Options that say what is trained on what: a candidate's tasks have settings of their own."""
ARMS = "standard,matched_flops,matched_size"
FUSIONS = "concat,cross_attention,champion"


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(
        epilog=examples(
            "chiasma benchmark --candidate latest#7 --tasks digit_claims --seeds 5",
            "chiasma benchmark --candidate latest#7 --tasks cifar10=cifar10/,imdb=imdb/ --seeds 5 --preset full",
            "chiasma benchmark memes.jsonl --ablate growth --config growth --seeds 5",
        )
    )(benchmark)


@takes_settings()
def benchmark(
    data: DataArgument = None,
    *,
    candidate: Annotated[
        str | None, typer.Option("--candidate", metavar="RUN#K", help="What search attention or search fusion found.")
    ] = None,
    ablate: Annotated[
        str | None,
        typer.Option("--ablate", metavar="PART,...", help="growth, controller: leave it out of DATA's training."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAME[=PATH],...",
            help="Of a candidate: cifar10, imdb, digit_claims, easy_vqa.",
            show_default="digit_claims",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Paired trainings of every arm.")] = 5,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="SIZE", help="Of a candidate's tasks: cpu or full.", show_default="cpu"),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            "--arms",
            metavar="NAME,...",
            help="Of an attention: standard, matched_flops, matched_size, mean; of a fusion: concat, "
            "cross_attention, champion.",
            show_default=f"{ARMS}; {FUSIONS}",
        ),
    ] = None,
    settings: Settings,
) -> None:
    """Say on sealed test splits, on paired seeds, what a discovered attention or a part of the training is worth."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_benchmark
    from chiasma.experiment.benchmark import benchmark as run_benchmark

    if (candidate is None) == (ablate is None):
        raise ConfigError("Give either --candidate RUN#K or --ablate growth|controller.")
    if candidate is not None:
        order = _candidate_order(
            candidate, settings, data=data, seeds=seeds, tasks=tasks, preset=preset or "cpu", arms=arms
        )
    else:
        assert ablate is not None
        given = {"--tasks": tasks, "--preset": preset, "--arms": arms}
        _refuse({name for name, value in given.items() if value is not None}, "--candidate, not of --ablate")
        order = _ablation_order(ablate, settings, data=data, seeds=seeds)
    with progress() as console:
        result = run_benchmark(order, console=console, command=command_line())
    print_benchmark(result)


def _candidate_order(
    candidate: str,
    settings: Settings,
    *,
    data: str | None,
    seeds: int,
    tasks: str | None,
    preset: str,
    arms: str | None,
) -> "Order":
    from chiasma.experiment.benchmark_judge import Order
    from chiasma.experiment.benchmark_tasks import task_configs
    from chiasma.experiment.discoveries import mechanism_of, searched_fusion

    if "#" not in candidate:
        raise ConfigError(f"--candidate: expected RUN#K, such as latest#7, but got {candidate!r}.")
    fusion = searched_fusion(candidate, settings.run_folder)
    given = {f"--{name.replace('_', '-')}" for name in OF_DATA if getattr(settings, name) is not None}
    given |= {"DATA"} if data is not None else set()
    if fusion is not None and tasks is None and given:
        configs = {"data": settings.config_for(data, also={candidate: fusion})}
    else:
        _refuse(given, "--ablate, and of a fusion without --tasks; a candidate has --tasks")
        settings.approve({candidate: fusion})
        configs = task_configs(
            tasks or "digit_claims", preset=preset, overrides=settings.overrides or [], values=settings.values()
        )
    if fusion is not None:
        part = {"fusion": fusion.to_dict()}
    else:
        part = {"attention": mechanism_of(candidate, settings.run_folder).to_dict()}
    return Order.from_dict(
        {
            "reference": candidate,
            **part,
            "tasks": {name: config.to_dict() for name, config in configs.items()},
            "seeds": seeds,
            "arms": [name.strip() for name in (arms or (ARMS if fusion is None else FUSIONS)).split(",")],
        },
        where="benchmark",
    )


def _ablation_order(parts: str, settings: Settings, *, data: str | None, seeds: int) -> "Order":
    from chiasma.experiment.benchmark_judge import Order

    config = settings.config_for(data)
    return Order.from_dict(
        {
            "reference": "the design of the settings",
            "tasks": {"data": config.to_dict()},
            "seeds": seeds,
            "ablate": [name.strip() for name in parts.split(",")],
        },
        where="benchmark",
    )


def _refuse(options: set[str], words: str) -> None:
    """Refuse options that would do nothing.

    Raises:
        ConfigError: There are such.
    """
    if options:
        raise ConfigError(f"{', '.join(sorted(options))}: of {words}.")
