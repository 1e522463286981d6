"""Where a model fails: by label, and which labels it takes for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from chiasma.data.several import parts_of
from chiasma.data.signature import Target
from chiasma.train.metrics import Scale, measure

MOST_CLASSES = 15


def label_table(
    logits: np.ndarray, labels: np.ndarray, target: Target, *, target_scale: Scale | None = None
) -> tuple[dict[str, Any], ...]:
    """Return how the model does on each label, over all seeds.

    Args:
        logits: Outputs ``[S n C]`` whose argmax or sign is the decision.
        labels: As for metrics.
        target: What is predicted.
        target_scale: Mean and standard deviation ``[C]`` of the train targets, for regression in the data's units.

    Returns:
        ``label, count, recall, precision, f1`` of each label; ``label, mae, rmse, r2`` of each value of a regression.
        What is not defined, such as the precision of an answer never given, is None. Empty for pairs and texts. Of
        several tasks the rows of all, the task's name before each label.
    """
    if target.tasks:
        return _rows_of_each(logits, np.asarray(labels), target, target_scale)
    if target.task in ("contrastive", "generation"):
        return ()
    if target.task == "regression":
        return tuple(_value_row(c, logits, labels, target, target_scale) for c in range(target.outputs))
    if target.task == "classification":
        names = np.arange(target.outputs)
        truth, said = labels[:, None] == names, logits.argmax(2)[:, :, None] == names
    else:
        truth, said = np.asarray(labels) > 0.5, logits > 0
    hits, given, actual = (said & truth).sum((0, 1)), said.sum((0, 1)), truth.sum(0)
    return tuple(
        {
            "label": target.labels[c],
            "count": int(actual[c]),
            "recall": _part(hits[c], actual[c] * len(logits)),
            "precision": _part(hits[c], given[c]),
            "f1": _part(2 * hits[c], given[c] + actual[c] * len(logits)),
        }
        for c in range(target.outputs)
    )


def confusion(logits: np.ndarray, labels: np.ndarray, target: Target) -> tuple[tuple[int, ...], ...]:
    """Return how often each class (row) was given each answer (column), summed over seeds.

    Empty for more than 15 classes and for other tasks than classification.
    """
    if target.task != "classification" or target.outputs > MOST_CLASSES:
        return ()
    classes = target.outputs
    cells = np.asarray(labels)[None] * classes + logits.argmax(2)
    counts = np.bincount(cells.ravel(), minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(int(n) for n in row) for row in counts)


def _rows_of_each(
    logits: np.ndarray, labels: np.ndarray, target: Target, scale: Scale | None
) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    for part in parts_of(target):
        known, own = part.of(labels)
        table = label_table(logits[:, known, part.outputs], own, part.target, target_scale=part.scale(scale))
        names = target.labels[part.outputs]
        found += [{**row, "label": name} for row, name in zip(table, names, strict=True)] if known.any() else []
    columns = list(dict.fromkeys(column for row in found for column in row))
    return tuple({column: row.get(column) for column in columns} for row in found)


def _value_row(
    column: int, logits: np.ndarray, labels: np.ndarray, target: Target, scale: Scale | None
) -> dict[str, Any]:
    one = Target(task="regression", labels=(target.labels[column],))
    part = slice(column, column + 1)
    cut = None if scale is None else (scale[0][part], scale[1][part])
    each = [measure(outputs[:, part], labels[:, part], one, target_scale=cut) for outputs in logits]
    return {
        "label": target.labels[column],
        **{name: _mean([row.get(name) for row in each]) for name in ("mae", "rmse", "r2")},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _part(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
