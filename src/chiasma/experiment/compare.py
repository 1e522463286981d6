"""Two runs side by side, and paired by example where both predicted the same test split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.errors import DataError
from chiasma.experiment.results import Arm, Gain, Interval, Results
from chiasma.experiment.runs import MODEL_FOLDER, read_results
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.statistics import Bootstrap

PREDICTIONS_FILE = "predictions.npz"


@dataclass(frozen=True)
class TestPredictions:
    """What a run's winner said about the test split.

    Attributes:
        ids: Of the examples ``[n]``.
        groups: Which examples belong together ``[n]``.
        labels: The truth ``[n]`` or ``[n C]``.
        outputs: Of each seed's training ``[S n C]``.
    """

    __test__ = False

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Attributes:
        names: The runs' ids.
        rows: What is compared, and both values.
        gain: The first against the second, paired by example; None where they cannot be paired.
        words: What a reader may conclude.
    """

    names: tuple[str, str]
    rows: list[tuple[Any, ...]]
    gain: Gain | None
    words: str


def compare(first: Path, second: Path) -> Comparison:
    """Compare the winners of two finished runs.

    Raises:
        StorageError: One of them has no results yet.
    """
    names = (first.name, second.name)
    results = (read_results(first), read_results(second))
    rows = _side_by_side(*results)
    reason = _why_not_paired(first, second, results)
    if reason:
        return Comparison(names, rows, None, f"Not paired: {reason} Only the figures stand side by side.")
    gain = paired(first, second, metric=results[0].metric)
    return Comparison(names, rows, gain, _conclusion(gain, names))


def paired(first: Path, second: Path, *, metric: str) -> Gain:
    """Return by how much the first run's winner is better on the test split that both predicted.

    The outputs are those behind the runs' own figures: calibrated, and thresholded where the metric judges decisions.

    Raises:
        DataError: The runs know the same test rows by different ids.
    """
    here, there = read_predictions(first), read_predictions(second)
    order = {identity: place for place, identity in enumerate(there.ids)}
    unknown = [identity for identity in here.ids if identity not in order]
    if unknown:
        raise DataError(f"{second.name} knows the test rows by other ids than {first.name}: it has no {unknown[0]}.")
    aligned = there.outputs[:, [order[identity] for identity in here.ids]]
    seeds = min(len(here.outputs), len(aligned))
    saved = SavedModel.load(first / MODEL_FOLDER, device="cpu")
    config = read_results(first)
    level = next((g.gain.level for g in config.gains), 0.95)
    bootstrap = Bootstrap(
        labels=here.labels,
        groups=here.groups,
        target=saved.signature.target,
        target_scale=saved.target_scale,
        level=level,
    )
    return bootstrap.gain_against(second.name, here.outputs[:seeds], aligned[:seeds], metric=metric)


def read_predictions(run: Path) -> TestPredictions:
    """Return what a run kept of its winner's predictions on test."""
    with np.load(run / PREDICTIONS_FILE, allow_pickle=False) as file:
        return TestPredictions(file["ids"], file["groups"], file["labels"], file["winner"])


def _why_not_paired(first: Path, second: Path, results: tuple[Results, Results]) -> str | None:
    for run in (first, second):
        if not (run / PREDICTIONS_FILE).is_file():
            return f"{run.name} did not open the test split."
    models = [SavedModel.load(run / MODEL_FOLDER, device="cpu") for run in (first, second)]
    prints = [model.card.get("fingerprint") for model in models]
    if prints[0] != prints[1]:
        return f"they learned from different data (fingerprints {prints[0]} and {prints[1]})."
    if models[0].signature.target != models[1].signature.target or not _same_scale(*models):
        return "their outputs mean different labels or scales."
    if results[0].metric != results[1].metric:
        return f"they maximise different metrics ({results[0].metric} and {results[1].metric})."
    return None


def _same_scale(first: SavedModel, second: SavedModel) -> bool:
    scales = [model.preprocessing.spec for model in (first, second)]
    return len({(spec.target_mean, spec.target_deviation) for spec in scales}) == 1


def _side_by_side(first: Results, second: Results) -> list[tuple[Any, ...]]:
    pair = (first, second)
    arms = [next(arm for arm in item.arms if arm.name == item.winner) for item in pair]
    rows: list[tuple[Any, ...]] = [
        ("data", *(item.source for item in pair)),
        ("budget", *(item.budget.get("asked", "") for item in pair)),
        ("winner", *(arm.description for arm in arms)),
        ("parameters", *(arm.parameters for arm in arms)),
        ("FLOPs an example", *(arm.flops for arm in arms)),
        ("seeds", *(arm.seeds for arm in arms)),
    ]
    for metric in dict.fromkeys(item.metric for item in pair):
        rows.append((f"{metric} on select", *(arm.select.get(metric) for arm in arms)))
        rows.append((f"{metric} on test", *(_interval_words(arm, metric) for arm in arms)))
    return rows


def _interval_words(arm: Arm, metric: str) -> str | None:
    interval = arm.test.get(metric)
    return None if interval is None else interval_words(interval)


def interval_words(interval: Interval) -> str:
    """Return an estimate with its interval: ``0.912 [0.874, 0.941]``."""
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _conclusion(gain: Gain, names: tuple[str, str]) -> str:
    said = {
        "better": f"{names[0]} is better than {names[1]}",
        "worse": f"{names[0]} is worse than {names[1]}",
        "no difference": f"No difference between {names[0]} and {names[1]} is shown",
    }[gain.verdict]
    return (
        f"{said}: {gain.metric} {interval_words(gain.gain)} ({gain.gain.level:.0%} interval, paired by example); "
        f"this test set would detect a gain of {gain.detectable:.4f}."
    )
