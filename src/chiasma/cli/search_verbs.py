"""``search attention`` and ``search fusion``: the verbs that discover parts of models."""

from typing import Annotated

import typer

from chiasma.cli.evolve_verbs import BUDGET, process_start
from chiasma.cli.options import (
    DataArgument,
    Generator,
    Policy,
    Replay,
    Settings,
    Usd,
    command_line,
    examples,
    takes_settings,
    writing,
)
from chiasma.core.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(help="Discover parts of models.", no_args_is_help=True, rich_markup_mode="rich")
    group.command(
        "attention",
        epilog=examples(
            "chiasma search attention --budget 10m",
            "chiasma search attention cifar10/ --slot image.attention --objectives error,flops,latency --budget 1h",
            "chiasma search attention cifar10/ --config cifar10_cpu --also imdb=imdb/ --budget 2h",
        ),
    )(search_attention)
    group.command(
        "fusion",
        epilog=examples(
            "chiasma search fusion --budget 10m",
            "chiasma search fusion memes/train.jsonl --budget 1h --policy bandit",
            "chiasma search fusion --generator openai --set llm.model=NAME llm.base_url=http://localhost:11434/v1",
        ),
    )(search_fusion)
    app.add_typer(group, name="search")


@takes_settings()
def search_attention(
    data: DataArgument = None,
    *,
    slot: Annotated[
        str | None,
        typer.Option(
            "--slot",
            metavar="PART",
            help="image.attention, text.attention or fusion.attention.",
            show_default="the fusion, or the only encoder",
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            "--objectives",
            metavar="NAME[,NAME]",
            help="What is minimised together: error, flops, parameters, latency.",
            show_default="error,flops",
        ),
    ] = None,
    also: Annotated[
        str | None,
        typer.Option(
            "--also",
            metavar="NAME[=PATH],...",
            help="Further tasks whose errors are objectives too, with settings of their own: cifar10, imdb, "
            "digit_claims, easy_vqa.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="SIZE", help="Sizes of the tasks of --also: cpu or full.", show_default="cpu"),
    ] = None,
    budget: Annotated[str | None, BUDGET] = None,
    settings: Settings,
) -> None:
    """Breed attention mechanisms for one place of a model, and judge the best against the standard one."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_search
    from chiasma.experiment.attention_search import search_attention as run_search
    from chiasma.experiment.benchmark_tasks import task_configs

    named = None if objectives is None else [name.strip() for name in objectives.split(",")]
    config = settings.config_for(data, run__budget=budget, search__slot=slot, evaluate__objectives=named)
    if preset is not None and not also:
        raise ConfigError("--preset is about the tasks of --also; for DATA itself name a preset with --config.")
    further = task_configs(also, preset=preset or "cpu", option="--also") if also else {}
    further = {name: each.model_copy(update={"run": config.run}) for name, each in further.items()}
    with progress() as console:
        result = run_search(config, also=further, console=console, command=command_line(), started=process_start())
    print_search(result)


@takes_settings()
def search_fusion(
    data: DataArgument = None,
    *,
    generator: Generator = None,
    policy: Policy = None,
    replay: Replay = None,
    budget: Annotated[str | None, BUDGET] = None,
    usd: Usd = None,
    settings: Settings,
) -> None:
    """Compose fusions of images and texts, or have a language model write them, and judge the best."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_search
    from chiasma.experiment.fusion_search import search_fusion as run_search

    named = writing(generator, policy=policy, replay=replay, usd=usd)
    config = settings.config_for(data, run__budget=budget, **named)
    with progress() as console:
        result = run_search(config, console=console, command=command_line(), started=process_start())
    print_search(result)
