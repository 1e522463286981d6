"""Check a saved model's predictions on rows of a dataset whose labels are known."""

import hashlib
from collections.abc import Sequence

import numpy as np

from chiasma.core.errors import DataError
from chiasma.data.batch import Tokens
from chiasma.data.dataset import Dataset
from chiasma.experiment.checking import Predictions, check_predictions
from chiasma.experiment.checks import Check
from chiasma.experiment.config import EvaluateSection
from chiasma.experiment.expectation import Expectation
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.statistics import Bootstrap
from chiasma.train.predicting import ROWS_AT_A_TIME, dataset_batches


def check_rows(
    saved: SavedModel,
    dataset: Dataset,
    rows: np.ndarray,
    logits: np.ndarray,
    *,
    evaluate: EvaluateSection,
    expected: Expectation | None = None,
) -> tuple[Check, ...]:
    """Return what every check says of a model's outputs.

    Args:
        saved: The model.
        dataset: Whose labels judge.
        rows: Which rows of it ``[n]``.
        logits: Uncalibrated outputs for them ``[n C]``.
        evaluate: The rules, and how intervals are made.
        expected: What predictions on select looked like; None where these are those.
    """
    try:
        judged = Bootstrap.over(dataset, rows, level=evaluate.level, resamples=evaluate.resamples)
    except DataError:  # One group: there is no interval.
        judged = None
    if judged is not None and saved.target_scale is not None and not saved.signature.target.tasks:
        mean, deviation = saved.target_scale
        judged = Bootstrap(
            judged.labels * deviation + mean,
            judged.groups,
            judged.target,
            level=evaluate.level,
            resamples=evaluate.resamples,
        )
    found = Predictions(
        target=saved.signature.target,
        asked=len(rows),
        decisions=saved.decide(logits),
        scores=saved.scores(logits),
        calibrator=saved.calibrator,
        inputs=lambda places: _inputs(saved, dataset, rows[places]),
        judged=judged,
    )
    return check_predictions(found, evaluate.checks, expected=expected)


def _inputs(saved: SavedModel, dataset: Dataset, rows: np.ndarray) -> Sequence[bytes]:
    """Return a hash of what the model reads of each row."""
    names = tuple(saved.model.spec.encoders) or None
    found: list[bytes] = []
    for batch in dataset_batches(dataset, rows, batch_size=ROWS_AT_A_TIME, modalities=names):
        values = [batch.inputs[name] for name in sorted(batch.inputs) if names is None or name in names]
        arrays = [(value.x if isinstance(value, Tokens) else value).numpy() for value in values]
        for row in range(len(batch)):
            found.append(hashlib.sha256(b"".join(array[row].tobytes() for array in arrays)).digest())
    return found
