"""``evaluate``, ``predict`` and ``features``: the verbs that use models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

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
)
from chiasma.core.errors import ConfigError

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
            "chiasma features photos.jsonl --extractor pixels --modality image -o pixels.npz",
            "chiasma features photos.jsonl --import image=mobilenet_tokens.npz",
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
            saved, manifest, columns=columns, image_dir=image_dir, features=features, out=out, as_json=as_json
        )
        return
    if out is not None or id is not None or image_dir is not None or feature or against is not None:
        raise ConfigError(
            "--out, --id, --image-dir, --features and --against belong to a MANIFEST, but none was given."
        )
    if image is None and text is None:
        raise ConfigError("Nothing to predict: give --image FILE, --text TEXT or a MANIFEST.")
    _predict_one(saved, image=image, text=text, as_json=as_json)


@takes_settings(without=("seed", "workers", "name"))
def features(
    data: DataArgument = None,
    *,
    extractor: Annotated[
        str | None,
        typer.Option("--extractor", metavar="pixels|RUN", help="Small pictures, or the encoder of a trained model."),
    ] = None,
    modality: Annotated[str, typer.Option("--modality", metavar="NAME", help="image or text.")] = "image",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.npz", help="Where tokens go.")] = None,
    imported: Annotated[
        str | None,
        typer.Option("--import", metavar="MODALITY=FILE", help="Check tokens made elsewhere; -o keeps them."),
    ] = None,
    settings: Settings,
) -> None:
    """Run a frozen encoder once over the data, or take in tokens made elsewhere, for --features."""
    from chiasma.cli.display import pairs, progress
    from chiasma.experiment.features import PIXELS, extract_features, import_features
    from chiasma.experiment.runs import find_model

    if (extractor is None) == (imported is None):
        raise ConfigError("Give either --extractor pixels|RUN with -o FILE.npz, or --import MODALITY=FILE.")
    also = {}
    if settings.trust and extractor not in (None, PIXELS):
        also = _held_by(find_model(extractor, settings.run_folder), settings.trust)
    config = settings.config_for(data, also=also)
    with progress() as console:
        if imported is not None:
            pairs(import_features(config, imported, out=out))
        else:
            if out is None:
                raise ConfigError("--extractor needs -o FILE.npz for the tokens.")
            assert extractor is not None
            summary = extract_features(config, extractor, modality=modality, out=out, console=console)
            pairs(summary)


def _held_by(folder: Path, trust: Sequence[str] | None) -> Mapping[str, Any]:
    """Return what of a saved model ``--trust`` may name; nothing is read where it names nothing."""
    if not trust:
        return {}
    from chiasma.experiment.trusting import spec_of_model

    return {f"the fusion of {folder}": spec_of_model(folder)}


def _predict_one(saved: Any, *, image: str | None, text: str | None, as_json: bool) -> None:
    from chiasma.cli.display import table
    from chiasma.experiment.predict import predict_one, prediction_words, said_by, shown_probability

    answer = predict_one(saved, image=None if image is None else Path(image), text=text)
    if as_json:
        typer.echo(answer.to_json())
        return
    if saved.signature.target.tasks:
        rows = [(name, prediction_words(one), shown_probability(answer, name)) for name, one in said_by(answer)]
        table(["task", "prediction", "probability"], rows, title="Predictions")
        return
    ordered = sorted(answer.scores.items(), key=lambda item: -item[1])
    valued = saved.signature.target.task in ("regression", "contrastive")
    what = "value" if valued else "probability"
    table(["label", what], ordered, title=f"Prediction: {answer.words}")


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
) -> None:
    import sys

    from chiasma.cli.display import progress
    from chiasma.data.manifest import Columns
    from chiasma.experiment.predict import predict_manifest, write_predictions

    _check_out(out, manifest)
    with progress() as console:
        rows = predict_manifest(
            saved, manifest, columns=Columns(**columns), image_dir=image_dir, features=features, console=console
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
    if bad == len(rows):
        raise typer.Exit(1)
