"""``search attention``: the verb that discovers mechanisms."""

from typing import Annotated

import typer

from chiasma.cli.evolve_verbs import BUDGET, process_start
from chiasma.cli.options import DataArgument, Settings, command_line, examples, takes_settings


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(help="Discover parts of models.", no_args_is_help=True, rich_markup_mode="rich")
    group.command(
        "attention",
        epilog=examples(
            "chiasma search attention --budget 10m",
            "chiasma search attention cifar10/ --slot image.attention --objectives error,flops,latency --budget 1h",
        ),
    )(search_attention)
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
    budget: Annotated[str | None, BUDGET] = None,
    settings: Settings,
) -> None:
    """Breed attention mechanisms for one place of a model, and judge the best against the standard one."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_search
    from chiasma.experiment.attention_search import search_attention as run_search

    named = None if objectives is None else [name.strip() for name in objectives.split(",")]
    config = settings.config_for(data, run__budget=budget, search__slot=slot, evaluate__objectives=named)
    with progress() as console:
        result = run_search(config, console=console, command=command_line(), started=process_start())
    print_search(result)
