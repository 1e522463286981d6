"""``data check``, ``data show`` and ``data fetch``: have data, and look at them before learning from them."""

from pathlib import Path
from typing import Annotated

import typer

from chiasma.cli.main import StoppedByUserError
from chiasma.cli.options import DataArgument, Debug, Settings, examples, takes_settings
from chiasma.core.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(help="Check, show and fetch data.", no_args_is_help=True, rich_markup_mode="rich")
    group.command(
        "check",
        epilog=examples("chiasma data check memes.jsonl", "chiasma data check table.csv --image photo --label y"),
    )(check)
    group.command("show", epilog=examples("chiasma data show", "chiasma data show memes.jsonl"))(show)
    group.command(
        "fetch",
        epilog=examples(
            "chiasma data fetch cifar10 --accept-terms",
            "chiasma data fetch hateful_memes --to memes --images hateful_memes.zip --accept-terms",
        ),
    )(fetch)
    app.add_typer(group, name="data")


@takes_settings(without=("workers", "device", "run_folder", "name"))
def check(data: DataArgument = None, *, settings: Settings) -> None:
    """Clean and split the data, and say what was found; exit code 1 where it cannot be learned from."""
    from chiasma.cli.display import output, progress
    from chiasma.experiment.backbones import with_backbones
    from chiasma.experiment.beginning import prepare_data

    config = settings.config_for(data)
    with progress() as console:
        _, report = prepare_data(with_backbones(config, console), console)
    for line in report.lines():
        output().print(line, markup=False, soft_wrap=True)


@takes_settings(without=("workers", "device", "run_folder", "name"))
def show(data: DataArgument = None, *, settings: Settings) -> None:
    """Print shapes, splits, labels and a few samples; never from the sealed test split."""
    from chiasma.cli.display import output, pairs, progress, table
    from chiasma.experiment.backbones import with_backbones
    from chiasma.experiment.beginning import prepare_data
    from chiasma.experiment.data_look import describe_inputs, describe_splits, samples

    config = settings.config_for(data)
    with progress() as console:
        dataset, _ = prepare_data(with_backbones(config, console), console)
    pairs({"source": dataset.source, "fingerprint": dataset.fingerprint, **describe_inputs(dataset)})
    splits = describe_splits(dataset)
    table(["split", "rows", "labels"], splits)
    if dataset.sensitive:
        output().print("The data is marked sensitive (data.sensitive=true): samples are not shown.")
        return
    table(["id", "image", "text", "label"], samples(dataset, count=5), title="First rows of train")


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="hateful_memes, science_qa, coco, cifar10 or imdb.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where it goes.", show_default="data/NAME")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option("--images", metavar="FILE|URL", help="The archive of images, where a dataset may not pass it on."),
    ] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="I have read the terms and keep to them.", show_default=False)
    ] = False,
    debug: Debug = False,
) -> None:
    """Fetch a public dataset: its terms are shown, its files checked, and what was cut off is continued."""
    from chiasma.cli.display import output, progress
    from chiasma.data.fetch import fetch as run_fetch
    from chiasma.data.fetch import public
    from chiasma.experiment.console import stoppable

    dataset = public(name)
    output().print(f"{dataset.title}\nTerms: {dataset.terms}", markup=False, soft_wrap=True)
    if not accept_terms:
        raise ConfigError(f"Nothing was fetched: read the terms, then say chiasma data fetch {name} --accept-terms.")
    folder = to or Path("data") / name
    with progress() as console:
        try:
            found = run_fetch(dataset, folder, images=images, progress=stoppable(console))
        except KeyboardInterrupt:
            raise StoppedByUserError("Stopped; what has arrived is kept: run the same command to continue.") from None
    for line in found.words:
        output().print(line, markup=False, soft_wrap=True)
    output().print(f"Look at it: chiasma data check {found.data}", markup=False, soft_wrap=True)
