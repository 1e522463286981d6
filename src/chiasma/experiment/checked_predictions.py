"""Check the predictions of a manifest, whose labels may or may not be known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.errors import DataError
from chiasma.core.files import write_atomic
from chiasma.data.labels import encode_labels, label_names, parse_label
from chiasma.experiment.checking import DECIDES, Predictions, check_predictions
from chiasma.experiment.checks import Check
from chiasma.experiment.predict import PredictedRow
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.statistics import Bootstrap


def check_predicted(saved: SavedModel, rows: Sequence[PredictedRow]) -> tuple[Check, ...]:
    """Return what every check says of predictions, by the rules that the model remembers.

    Args:
        saved: The model.
        rows: What :func:`~chiasma.experiment.predict.predict_manifest` returned.
    """
    read = [row for row in rows if row.answer is not None]
    answers = [row.answer for row in read if row.answer is not None]
    scores = np.array([[answer.scores[name] for name in saved.labels] for answer in answers], dtype=np.float64)
    found = Predictions(
        target=saved.signature.target,
        asked=len(rows),
        decisions=[answer.prediction for answer in answers],
        scores=scores.reshape(-1, len(saved.labels)),
        calibrator=saved.calibrator,
        inputs=lambda places: [read[place].content for place in places],
        judged=_judged(saved, read),
    )
    return check_predictions(found, saved.expectation.rules, expected=saved.expectation)


def write_checks(checks: Sequence[Check], predictions: Path) -> Path:
    """Write what the checks found beside the predictions, as ``NAME.checks.json``, and return the file.

    Raises:
        StorageError: The file cannot be written.
    """
    path = predictions.with_suffix(".checks.json")
    write_atomic(path, json.dumps([check.to_dict() for check in checks], indent=1) + "\n")
    return path


def _judged(saved: SavedModel, rows: Sequence[PredictedRow]) -> Bootstrap | None:
    """Return the labels that stand beside the predicted rows; None where not all of them have one that is known."""
    target = saved.signature.target
    if target.task not in DECIDES or not rows:
        return None
    labels = [_known(row.label, saved) for row in rows]
    if any(label is None for label in labels):
        return None
    _, groups = np.unique([row.content.hex() for row in rows], return_inverse=True)
    try:
        return Bootstrap(encode_labels(labels, target), groups, target)
    except DataError:  # One row: there is no interval.
        return None


def _known(value: Any, saved: SavedModel) -> Any:
    target = saved.signature.target
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    label = parse_label(value, target.task)
    if target.task == "regression":
        return label if label is not None and len(label) == target.outputs else None
    return label if label is not None and set(label_names(label)) <= set(target.labels) else None
