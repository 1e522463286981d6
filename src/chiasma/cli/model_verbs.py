"""``evaluate``, ``predict`` and ``features``: the verbs that use models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chiasma.cli.options import (
    DataArgument,
    Debug,
    RunFolder,
    Settings,
    Trust,
    examples,
    files_by_modality,
    takes_settings,
    trust_sources,
    values_by_name,
)
from chiasma.core.errors import ConfigError

if TYPE_CHECKING:
    from chiasma.experiment.checks import Check

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder, or a run: its folder, the start of its id, latest.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(epilog=examples("chiasma evaluate latest", "chiasma evaluate latest newer.jsonl --on select"))(evaluate)
    app.command(
        epilog=examples(
            'chiasma predict latest --image meme.png --text "when you see it"',
            "chiasma predict latest unlabelled.csv -o predicted.csv",
            "chiasma predict latest queries.csv --against gallery.csv --top 5",
        )
    )(predict)
    app.command(
        epilog=examples(
            "chiasma features photos.jsonl --extractor resnet -o image.safetensors",
            "chiasma features photos.jsonl --extractor fasterrcnn_vg --weights FILE.pth --regions 100 -o regions.npz",
            "chiasma features photos.jsonl --import image=bottom_up.h5 -o image.safetensors",
        )
    )(features)


@takes_settings(without=("seed", "workers", "name"))
def evaluate(
    model: ModelArgument,
    data: DataArgument = None,
    *,
    on: Annotated[
        str, typer.Option("--on", metavar="SPLIT", help="test (each opening is counted) or select.")
    ] = "test",
    settings: Settings,
) -> None:
    """Measure a saved model on the data it was trained for, or on other data with the same labels."""
    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_evaluation
    from chiasma.data.manifest import DataSpec
    from chiasma.experiment.evaluate_run import evaluate as run_evaluate
    from chiasma.experiment.runs import data_like, find_model

    if on != "test" and on != "select":
        raise ConfigError(f"--on: expected test or select, but got {on!r}.")
    folder = find_model(model, settings.run_folder)
    config = settings.config_for(data, also=_held_by(folder, settings.trust))
    if data is None and config.data != DataSpec():
        raise ConfigError("Without DATA the model's own data are measured, read as they were: leave data.* alone.")
    spec = None if data is None else data_like(folder, config.data)
    with progress() as console:
        evaluation = run_evaluate(folder, spec, split=on, console=console, config=config)
    print_evaluation(evaluation)


def predict(
    model: ModelArgument,
    manifest: Annotated[
        Path | None,
        typer.Argument(metavar="MANIFEST", help="Rows to predict: JSONL, CSV or Parquet.", show_default=False),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="FILE|COL", help="The image; with MANIFEST, its column.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT|COL[,COL]", help="The text; with MANIFEST, its columns.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="COL", help="Column of ids.")] = None,
    image_dir: Annotated[
        Path | None, typer.Option("--image-dir", metavar="FOLDER", help="What image paths are below.")
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="MODALITY=FILE", help="Tokens made elsewhere, for a model that reads such."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where predictions go: .csv or .jsonl.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="GALLERY", help="Find the best of these images or texts for each row."),
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="With --against: matches a row.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    captions: Annotated[
        str | None,
        typer.Option(
            "--captions",
            metavar="FILE|MODEL|none",
            help="Where captions come from, for a model that reads such; what it remembers by default.",
        ),
    ] = None,
    relax: Annotated[
        bool, typer.Option("--relax", help="Accept predictions that fail a required check.", show_default=False)
    ] = False,
    run_folder: RunFolder = None,
    trust: Trust = None,
    debug: Debug = False,
) -> None:
    """Predict one image and text, or every row of a manifest; rows that cannot be read are named, none is lost."""
    from chiasma.experiment.runs import find_model
    from chiasma.experiment.saved import SavedModel

    folder = find_model(model, run_folder)
    trust_sources(trust, _held_by(folder, trust))
    saved = SavedModel.load(folder, device=device)
    if manifest is not None:
        columns = {"image": image, "text": tuple(text.split(",")) if text else (), "id": id}
        features = {modality: Path(file) for modality, file in files_by_modality(feature or ()).items()}
        if against is not None:
            _retrieve(saved, manifest, against, top=top, columns=columns, image_dir=image_dir, out=out, as_json=as_json)
            return
        _predict_manifest(
            saved,
            manifest,
            columns=columns,
            image_dir=image_dir,
            features=features,
            out=out,
            as_json=as_json,
            captions=(captions, device),
            relax=relax,
        )
        return
    if out is not None or id is not None or image_dir is not None or feature or against is not None:
        raise ConfigError(
            "--out, --id, --image-dir, --features and --against belong to a MANIFEST, but none was given."
        )
    if image is None and text is None:
        raise ConfigError("Nothing to predict: give --image FILE, --text TEXT or a MANIFEST.")
    _predict_one(saved, image=image, text=text, as_json=as_json, captions=(captions, device), relax=relax)


@takes_settings(without=("seed", "workers", "name"))
def features(
    data: DataArgument = None,
    *,
    extractor: Annotated[
        str | None,
        typer.Option("--extractor", metavar="NAME|RUN", help="One of chiasma list components, or a trained model."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="FOLDER|FILE|NAME", help="Published weights; else the extractor's own."),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option("--modality", metavar="NAME", help="image or text; else what the extractor reads."),
    ] = None,
    regions: Annotated[
        int | None, typer.Option("--regions", metavar="N", help="Most regions an image, of a detector.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, help="Images or texts at once.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Another setting of the extractor.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where tokens go: .safetensors or .npz.")
    ] = None,
    imported: Annotated[
        str | None,
        typer.Option("--import", metavar="MODALITY=FILE", help="Check tokens made elsewhere; -o keeps them."),
    ] = None,
    settings: Settings,
) -> None:
    """Run a frozen network once over the data, or take in tokens made elsewhere, for --features."""
    from chiasma.cli.display import pairs, progress
    from chiasma.experiment.extractors import extractor_names
    from chiasma.experiment.features import extract_features, import_features
    from chiasma.experiment.runs import find_model

    if (extractor is None) == (imported is None):
        raise ConfigError("Give either --extractor NAME|RUN with -o FILE, or --import MODALITY=FILE.")
    options = values_by_name(option or ()) | ({} if regions is None else {"regions": regions})
    also = {}
    if settings.trust and extractor is not None and extractor not in extractor_names():
        also = _held_by(find_model(extractor, settings.run_folder), settings.trust)
    config = settings.config_for(data, also=also)
    with progress() as console:
        if imported is not None:
            if options or weights or batch_size or modality:
                raise ConfigError(
                    "--weights, --modality, --regions, --batch-size and --option belong to --extractor, not --import."
                )
            pairs(import_features(config, imported, out=out))
            return
        if out is None:
            raise ConfigError("--extractor needs -o FILE for the tokens.")
        assert extractor is not None
        summary = extract_features(
            config,
            extractor,
            modality=modality,
            weights=weights,
            options=options,
            batch_size=batch_size,
            out=out,
            console=console,
        )
        pairs(summary)


def _held_by(folder: Path, trust: Sequence[str] | None) -> Mapping[str, Any]:
    """Return what of a saved model ``--trust`` may name; nothing is read where it names nothing."""
    if not trust:
        return {}
    from chiasma.experiment.trusting import spec_of_model

    return {f"the fusion of {folder}": spec_of_model(folder)}


def _predict_one(
    saved: Any, *, image: str | None, text: str | None, as_json: bool, captions: tuple[str | None, str], relax: bool
) -> None:
    from chiasma.cli.display import progress, table
    from chiasma.experiment.captioned_rows import captions_for
    from chiasma.experiment.checked_predictions import check_predicted
    from chiasma.experiment.predict import PredictedRow, predict_one, prediction_words, said_by, shown_probability

    asked, device = captions
    with progress() as console:
        told = captions_for(saved, asked=asked, device=device, console=console)
        answer = predict_one(saved, image=None if image is None else Path(image), text=text, captions=told)
    if as_json:
        typer.echo(answer.to_json())
    elif saved.signature.target.tasks:
        rows = [(name, prediction_words(one), shown_probability(answer, name)) for name, one in said_by(answer)]
        table(["task", "prediction", "probability"], rows, title="Predictions")
    else:
        ordered = sorted(answer.scores.items(), key=lambda item: -item[1])
        valued = saved.signature.target.task in ("regression", "contrastive")
        table(["label", "value" if valued else "probability"], ordered, title=f"Prediction: {answer.words}")
    _hold_to(check_predicted(saved, [PredictedRow("1", answer)]), relax=relax, quiet=True)


def _retrieve(
    saved: Any,
    queries: Path,
    against: Path,
    *,
    top: int,
    columns: dict[str, Any],
    image_dir: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    import sys

    from chiasma.cli.display import progress
    from chiasma.data.manifest import Columns
    from chiasma.experiment.retrieve import retrieve, write_matches

    _check_out(out, queries, against)
    with progress() as console:
        rows = retrieve(
            saved, queries, against=against, top=top, columns=Columns(**columns), image_dir=image_dir, console=console
        )
    kind = "jsonl" if as_json or (out is not None and out.suffix == ".jsonl") else "csv"
    text = write_matches(rows, kind=kind, out=out)
    if out is None:
        sys.stdout.write(text)
    bad = sum(row.error is not None for row in rows)
    typer.echo(f"{len(rows) - bad} rows searched for, {bad} could not be read (column error).", err=True)
    if bad == len(rows):
        raise typer.Exit(1)


def _check_out(out: Path | None, *inputs: Path) -> None:
    if out is None:
        return
    if out.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"--out must end in .csv or .jsonl, but got {out}.")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: the folder {out.absolute().parent} does not exist.")
    if any(out.absolute() == given.absolute() for given in inputs):
        raise ConfigError(f"--out: {out} is the manifest itself, which would be overwritten.")


def _predict_manifest(
    saved: Any,
    manifest: Path,
    *,
    columns: dict[str, Any],
    image_dir: Path | None,
    features: dict[str, Path],
    out: Path | None,
    as_json: bool,
    captions: tuple[str | None, str],
    relax: bool,
) -> None:
    import sys

    from chiasma.cli.display import progress
    from chiasma.data.manifest import Columns
    from chiasma.experiment.captioned_rows import captions_for
    from chiasma.experiment.checked_predictions import check_predicted, write_checks
    from chiasma.experiment.predict import predict_manifest, write_predictions

    _check_out(out, manifest)
    with progress() as console:
        asked, device = captions
        rows = predict_manifest(
            saved,
            manifest,
            columns=Columns(**columns),
            image_dir=image_dir,
            features=features,
            captions=captions_for(saved, asked=asked, device=device, console=console),
            console=console,
        )
        interrupted = console.interrupted
    kind = "jsonl" if as_json or (out is not None and out.suffix == ".jsonl") else "csv"
    text = write_predictions(rows, saved, kind=kind, out=out)
    if out is None:
        sys.stdout.write(text)
    bad = sum(row.error is not None for row in rows)
    where = f" in {out}" if out is not None else ""
    typer.echo(f"{len(rows) - bad} rows predicted{where}, {bad} could not be read (column error).", err=True)
    if interrupted:
        typer.echo("Interrupted: the rows after these were not predicted.", err=True)
        raise typer.Exit(130)
    checks = check_predicted(saved, rows)
    if out is not None:
        write_checks(checks, out)
    _hold_to(checks, relax=relax)
    if bad == len(rows):
        raise typer.Exit(1)


def _hold_to(checks: Sequence["Check"], *, relax: bool, quiet: bool = False) -> None:
    """Say what the checks of predictions found; leave with 1 where a required one failed.

    Args:
        checks: What they found.
        relax: Leave with 0 all the same.
        quiet: Say only what failed.
    """
    from chiasma.experiment.checks import failures, summary_lines

    for line in summary_lines(checks)[1 if quiet else 0 :]:
        typer.echo(line, err=True)
    failed = failures(checks)
    if failed and not relax:
        names = ", ".join(check.name for check in failed)
        typer.echo(f"These predictions fail what the model requires ({names}). Accept them with --relax.", err=True)
        raise typer.Exit(1)
