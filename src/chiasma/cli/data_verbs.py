"""``data check`` and ``data show``: look at data before learning from it."""

import typer

from chiasma.cli.options import DataArgument, Settings, examples, takes_settings


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    group = typer.Typer(help="Check and show data.", no_args_is_help=True, rich_markup_mode="rich")
    group.command(
        "check",
        epilog=examples("chiasma data check memes.jsonl", "chiasma data check table.csv --image photo --label y"),
    )(check)
    group.command("show", epilog=examples("chiasma data show", "chiasma data show memes.jsonl"))(show)
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
