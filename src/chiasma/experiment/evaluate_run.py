"""Measure a saved model on a split; the test split through the ledger, like everything else."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chiasma.core.errors import DataError
from chiasma.core.files import read_json
from chiasma.core.spec import Spec
from chiasma.data.batch import Sample
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.data.signature import ImageInput, TokensInput
from chiasma.experiment.beginning import run_cache
from chiasma.experiment.calibration import judges_decisions
from chiasma.experiment.captions import captioner
from chiasma.experiment.checked_rows import check_rows
from chiasma.experiment.checks import Check
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console, stoppable
from chiasma.experiment.diagnosis import label_table
from chiasma.experiment.predict import read_image
from chiasma.experiment.results import Calibration, Interval
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.sealed import open_test, opening_words
from chiasma.experiment.slice_table import slice_table
from chiasma.experiment.statistics import Bootstrap, UndefinedMetricError
from chiasma.store.folders import ledger_folder
from chiasma.train.metrics import metrics_of
from chiasma.train.predicting import predict_logits


class Evaluation(Spec):
    """What a saved model reaches on a split.

    Attributes:
        examples: Rows that were judged.
        groups: Independent groups among them; intervals are clustered by these.
        opening: How often the test split had been opened before; None for select.
        metrics: Each with its interval.
        per_label: How it does on each label.
        checks: What was asked of the predictions.
        slice_metric: What ``slices`` are measured by.
        slices: How it does on the rows with each value of the data's slices: ``slice, value, count, groups, score, low,
            high``.
    """

    model: str
    source: str
    split: Literal["test", "select"]
    examples: int
    groups: int
    opening: int | None
    metrics: Mapping[str, Interval]
    calibration: Calibration | None
    per_label: tuple[Mapping[str, Any], ...]
    checks: tuple[Check, ...] = ()
    slice_metric: str = ""
    slices: tuple[Mapping[str, Any], ...] = ()


def evaluate(
    model: Path,
    data: DataSpec | None,
    *,
    split: Literal["test", "select"] = "test",
    console: Console,
    config: RunConfig,
) -> Evaluation:
    """Measure a saved model.

    Args:
        model: The model's folder.
        data: Data with the same labels and kinds of input; None for those it was trained on.
        split: ``test`` records an opening in the ledger.
        console: Where progress goes.
        config: Its ``run.device`` and ``run.cache`` say where, its ``evaluate`` section how intervals are made. Without
            a ``run.cache`` the model's own data are looked for where its run prepared them.

    Raises:
        DataError: The data do not fit the model, or have no such split.
    """
    saved = SavedModel.load(model, device=config.run.device)
    spec = data if data is not None else DataSpec.from_dict(saved.card["data"])
    cache = run_cache(config) if data is not None else _own_cache(model, config)
    describe = captioner(
        spec.captions, cache=cache, device=config.run.device, max_pixels=spec.max_pixels, console=console
    )
    dataset, _ = prepare(spec, seed=saved.card["seed"], cache=cache, progress=stoppable(console), describe=describe)
    as_prepared = saved.reads_as_prepared(dataset)
    _check_fit(saved, dataset, as_prepared=as_prepared)
    own = as_prepared and dataset.fingerprint == saved.card["fingerprint"]
    before = None
    if split == "test":
        if not dataset.test_count:
            raise DataError(f"{spec.source} has no test split; measure on select with --on select.")
        rows, before = open_test(dataset, ledger_folder=ledger_folder(), run=str(saved.card["run"]), verb="evaluate")
        console.say(opening_words(before))
    else:
        rows = dataset.rows("select")
    if not own or split == "test":
        rows = _unseen(saved, dataset, rows, console)
    # Otherwise with the model's own preprocessing: its tokenizer and image size, not those of the new data.
    if as_prepared:
        logits = predict_logits(saved.model, dataset, rows)
    else:
        logits = dataset.restricted(saved.logits(_samples(saved, dataset, rows)), rows)
    over = partial(Bootstrap.over, dataset, level=config.evaluate.level, resamples=config.evaluate.resamples)
    bootstrap = over(rows)

    def judged(metric: str) -> np.ndarray:
        decides = judges_decisions(metric)
        return (saved.calibrator.decision_logits(logits) if decides else saved.calibrator.apply(logits))[None]

    metrics: dict[str, Interval] = {}
    for metric in metrics_of(dataset.signature.target):
        try:
            metrics[metric] = bootstrap.interval(judged(metric), metric)
        except UndefinedMetricError:
            continue
    decisive = str(saved.card["metric"])
    return Evaluation(
        model=str(model),
        source=spec.source,
        split=split,
        examples=len(rows),
        groups=bootstrap.count,
        opening=before,
        metrics=metrics,
        calibration=saved.calibrator.describe(logits, bootstrap.labels),
        per_label=label_table(
            saved.calibrator.decision_logits(logits)[None],
            bootstrap.labels,
            dataset.signature.target,
            target_scale=dataset.target_scale,
        ),
        checks=check_rows(
            saved,
            dataset,
            rows,
            logits,
            evaluate=config.evaluate,
            # On its own select split there is nothing else to compare with.
            expected=saved.expectation if data is not None or split == "test" else None,
        ),
        slice_metric=decisive,
        slices=slice_table(dataset, rows, judged(decisive), metric=decisive, bootstrap=over),
    )


def _own_cache(model: Path, config: RunConfig) -> Path:
    """Return where a model's run prepared its data, if that is here and the settings name no other cache."""
    settings = model.parent / "config.json"
    made = read_json(settings)["run"]["cache"] if settings.is_file() else None
    if config.run.cache is None and made is not None and Path(made).expanduser().is_dir():
        return Path(made).expanduser()
    return run_cache(config)


def _unseen(saved: SavedModel, dataset: Dataset, rows: np.ndarray, console: Console) -> np.ndarray:
    """Leave out rows that the model has learnt from: in a grown or newly split file they may stand anywhere.

    Raises:
        DataError: None is left.
    """
    known = saved.learnt_from(dataset, rows)
    if known.all():
        raise DataError(f"The model has learnt from every one of these {len(rows):,} rows: they can say nothing of it.")
    if known.any():
        console.say(f"left out {known.sum():,} of {len(rows):,} rows, because the model has learnt from them")
    return rows[~known]


def _samples(saved: SavedModel, dataset: Dataset, rows: np.ndarray) -> list[Sample]:
    """Return rows as a person would write them: image files decoded anew, since the model may see them larger."""
    texts, paths = dataset.texts(rows), dataset.image_paths(rows)
    decoded = isinstance(dataset.signature.inputs.get("image"), ImageInput)
    seen = dataset.batch(rows, modalities=["image"]).present["image"].tolist() if decoded else [False] * len(rows)
    samples: list[Sample] = []
    for place, (row, text, path) in enumerate(zip(rows, texts, paths, strict=True)):
        parts: dict[str, Any] = {"text": text} if text else {}
        if path is not None:
            parts["image"] = read_image(path, max_pixels=saved.max_pixels)
        elif seen[place]:
            parts["image"] = dataset.images(rows[place : place + 1])[0]
        samples.append(Sample(dataset.ids([row])[0], {n: p for n, p in parts.items() if n in saved.signature.inputs}))
    return samples


def _check_fit(saved: SavedModel, dataset: Dataset, *, as_prepared: bool) -> None:
    ready = [name for name in saved.model.spec.encoders if isinstance(saved.signature.inputs[name], TokensInput)]
    if ready and not as_prepared:
        raise DataError(
            f"The model reads ready-made tokens of {', '.join(ready)}: data that are prepared otherwise cannot be "
            "measured with it. Predict them with `chiasma predict MODEL MANIFEST --features ...` instead."
        )
    ours, theirs = saved.signature.target, dataset.signature.target
    if ours.task != theirs.task or (ours.task != "regression" and ours.labels != theirs.labels):
        raise DataError(
            f"The model predicts {ours.task} of {', '.join(ours.labels[:8])}, but the data hold {theirs.task} of "
            f"{', '.join(theirs.labels[:8])}."
        )
