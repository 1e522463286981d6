"""The nodes: each is one call of the library between what the catalog gives and what it keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from chiasma.core.errors import DataError
from chiasma.data.dataset import Dataset
from chiasma.data.digit_claims import SOURCES as BUILT_IN
from chiasma.data.report import DataReport
from chiasma.experiment.attention_search import search_attention
from chiasma.experiment.backbones import with_backbones
from chiasma.experiment.beginning import prepare_data
from chiasma.experiment.config import RunConfig
from chiasma.experiment.evaluate_run import Evaluation
from chiasma.experiment.evaluate_run import evaluate as run_evaluate
from chiasma.experiment.evolve import evolve as run_evolve
from chiasma.experiment.features import extract_features as run_extract
from chiasma.experiment.fusion_search import search_fusion
from chiasma.experiment.predicted_table import write_predictions
from chiasma.experiment.prepared_predictions import predict_prepared
from chiasma.experiment.published_figures import published_figures
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.train_run import train
from chiasma.experiment.untrained import untrained_model
from chiasma.pipelines.composing import LoggedConsole, command, composed, joined
from chiasma.pipelines.datasets import Workplace

Params = Mapping[str, Any]
Figures = dict[str, dict[str, float]]
"""Figures as kedro-mlflow takes them: ``value`` and ``step`` by name."""

TOKENS = "image.safetensors"


def process_data(data: Params, machine: Params, place: Workplace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read, clean and split the data; return what the models' pipelines check, and the report.

    Raises:
        DataError: The data are not there or cannot be used.
    """
    dataset, report = _prepared(composed({}, data, machine, place=place))
    counts = {split: len(dataset.rows(split)) for split in ("train", "steer", "select")}
    processed = {
        "source": str(data.get("source", dataset.source)),
        "fingerprint": dataset.fingerprint,
        "labels": list(dataset.signature.target.labels),
        "rows": {**counts, "test": dataset.test_count},
    }
    return processed, report.to_dict()


def extract_features(
    data: Params, machine: Params, chosen: Params, processed: Params, place: Workplace
) -> tuple[Path, dict[str, Any]]:
    """Run the variant's frozen extractor over the images; return the file of tokens, and what was done."""
    config = composed({}, data, machine, place=place)
    draft = place.draft(TOKENS)
    extractor, named = chosen["extractor"], _weights(chosen)
    done = run_extract(config, extractor, modality="image", out=draft, console=LoggedConsole(), **named)
    return draft, {"extractor": extractor, "fingerprint": processed["fingerprint"], **done}


def train_model(
    data: Params, machine: Params, chosen: Params, processed: Params, tokens: Path, place: Workplace
) -> tuple[Path, Path, dict[str, Any], list[dict[str, Any]]]:
    """Train the variant; return its model, its report, what it came to, and one row an evaluation.

    Raises:
        DataError: The test rows are not those that were processed.
    """
    config = composed(chosen, data, machine, place=place, tokens=tokens)
    _check_same(config, processed)
    result = train(joined(config), console=LoggedConsole(), command=command())
    assert result is not None, "torchrun starts chiasma train, never Kedro"
    results = result.results
    training = {
        "run": result.run_path.name,
        "stopped": result.stopped,
        "preset": chosen.get("preset"),
        "fingerprint": processed["fingerprint"],
        "parameters": results.arms[0].parameters,
        "budget": results.budget,
        "select": dict(results.arms[0].select),
        "notes": list(results.notes),
    }
    return result.model_path, result.report_path, training, [dict(row) for row in results.history]


def evaluate_model(
    data: Params, machine: Params, chosen: Params, model: Path, tokens: Path, place: Workplace
) -> tuple[dict[str, Any], Figures]:
    """Measure a trained model on select; the test split stays sealed."""
    found = _evaluated(data, machine, chosen, model, tokens, place, split="select")
    return found.to_dict(), _figures(found, "select")


def validate_model(
    data: Params, machine: Params, chosen: Params, model: Path, tokens: Path, place: Workplace
) -> tuple[dict[str, Any], Figures]:
    """Measure a trained model on select and on test; the opening of test is counted, and said in the log."""
    select = _evaluated(data, machine, chosen, model, tokens, place, split="select")
    test = _evaluated(data, machine, chosen, model, tokens, place, split="test")
    return {"select": select.to_dict(), "test": test.to_dict()}, _figures(select, "select") | _figures(test, "test")


def load_pretrained(data: Params, machine: Params, chosen: Params, tokens: Path, place: Workplace) -> Path:
    """Return the variant with its published weights, none of our training, and a head drawn from the seed."""
    config = with_backbones(composed(chosen, data, machine, place=place, tokens=tokens), LoggedConsole())
    dataset, _ = _prepared(config)
    draft = place.draft("pretrained")
    untrained_model(config, dataset).save(draft)
    return draft


def infer(
    data: Params, machine: Params, chosen: Params, model: Path, tokens: Path, place: Workplace
) -> tuple[str, dict[str, Any], Figures]:
    """Predict the rows of select; return them as CSV, with the figures and checks that their labels give."""
    config = with_backbones(composed(chosen, data, machine, place=place, tokens=tokens), LoggedConsole())
    dataset, _ = _prepared(config)
    saved = SavedModel.load(model, device=config.run.device)
    rows = predict_prepared(saved, dataset, dataset.rows("select"))
    found = run_evaluate(model, config.data, split="select", console=LoggedConsole(), config=config)
    checks = [check.to_dict() for check in found.checks]
    figures = {"examples": found.examples, **published_figures(found), "checks": checks}
    return write_predictions(rows, saved, kind="csv", out=None), figures, _figures(found, "inference")


def evolve(data: Params, machine: Params, chosen: Params, place: Workplace) -> tuple[Path, Path, dict[str, Any]]:
    """Search for the best classifier within the budget; return its model, its report and the results."""
    result = run_evolve(composed(chosen, data, machine, place=place), console=LoggedConsole(), command=command())
    return result.model_path, result.report_path, result.results.to_dict()


def search(data: Params, machine: Params, chosen: Params, place: Workplace) -> tuple[Path, dict[str, Any]]:
    """Search for one part of a model, which ``search.slot`` names; return the report and the front."""
    config = composed(chosen, data, machine, place=place)
    searching = search_fusion if config.search.slot == "fusion" else search_attention
    result = searching(config, console=LoggedConsole(), command=command())
    return result.run_path / "report.html", result.front.to_dict()


def _evaluated(
    data: Params,
    machine: Params,
    chosen: Params,
    model: Path,
    tokens: Path,
    place: Workplace,
    *,
    split: Literal["select", "test"],
) -> Evaluation:
    """Measure a model on the data as they lie here, wherever it was trained."""
    config = with_backbones(composed(chosen, data, machine, place=place, tokens=tokens), LoggedConsole())
    return run_evaluate(model, config.data, split=split, console=LoggedConsole(), config=config)


def _prepared(config: RunConfig) -> tuple[Dataset, DataReport]:
    """Return the data that the parameters name.

    Raises:
        DataError: They are not there; says what to do.
    """
    source = config.data.source
    if source not in BUILT_IN and "/" in source and not Path(source).exists():
        raise DataError(
            f"parameters.yml names the data {source}, which are not there: docs/datasets.md says how to get them. "
            "The built-in data need none: kedro run --env=tiny."
        )
    return prepare_data(config, LoggedConsole())


def _check_same(config: RunConfig, processed: Params) -> None:
    """Refuse to train on other data than those that were processed.

    Raises:
        DataError: The test rows differ.
    """
    dataset, _ = _prepared(with_backbones(config, LoggedConsole()))
    now, known = dataset.fingerprint, processed["fingerprint"]
    if now != known:
        raise DataError(
            f"The test rows of {dataset.source} are {now}, but those that were processed {known}: process them again "
            "with kedro run --pipeline=data_processing."
        )


def _figures(found: Evaluation, prefix: str) -> Figures:
    """Return an evaluation's figures and checks for MLflow."""
    checks = {f"check_{check.name}": float(check.passed) for check in found.checks if check.passed is not None}
    values = published_figures(found) | checks
    return {f"{prefix}_{name}": {"value": value, "step": 0} for name, value in values.items()}


def _weights(chosen: Params) -> dict[str, Any]:
    return {"weights": chosen["weights"]} if chosen.get("weights") else {}
