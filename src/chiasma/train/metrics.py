"""Metrics of predictions, exact in float64; one that is undefined on the given labels is left out, never made up."""

from collections.abc import Callable, Mapping

import numpy as np

from chiasma.core.errors import ConfigError
from chiasma.core.spec import suggestion
from chiasma.data.several import parts_of
from chiasma.data.signature import Target
from chiasma.train.retrieval import MEDIAN_RANKS, RETRIEVAL_METRICS, retrieval

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro", "log_loss", "auroc", "ece"),
    "multilabel": ("map", "f1_micro", "f1_macro", "log_loss"),
    "regression": ("r2", "mae", "rmse"),
    "contrastive": RETRIEVAL_METRICS,
}
LOWER_IS_BETTER = frozenset({"log_loss", "ece", "mae", "rmse", *MEDIAN_RANKS})
CALIBRATION_BINS = 15
MEAN_SCORE = "mean_score"
"""Of several tasks: the mean of each one's usual metric, all of which are 1 at best; R² counts as 0 at worst."""

Scale = tuple[np.ndarray, np.ndarray]


def primary_metric(target: Target, chosen: str | None = None) -> str:
    """Return the metric that decides: the user's choice, or the first of its task.

    Raises:
        ConfigError: ``chosen`` is not a metric of this task; the nearest name is suggested.
    """
    known = metrics_of(target)
    if chosen is None:
        return known[0]
    if chosen not in known:
        raise ConfigError(
            f"metric: {chosen!r} is not a metric of {target.task}.{suggestion(chosen, list(known))} "
            f"Known here: {', '.join(known)}."
        )
    return chosen


def metrics_of(target: Target) -> tuple[str, ...]:
    """Return the metrics of a target, the usual one first; of several tasks each with its task's name before it."""
    if not target.tasks:
        return METRICS[target.task]
    each = [f"{part.name}/{metric}" for part in parts_of(target) for metric in METRICS[part.target.task]]
    return (MEAN_SCORE, *each)


def plain_name(metric: str) -> str:
    """Return a metric's name without that of its task."""
    return metric.rpartition("/")[2]


def mean_score(target: Target, measured: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return :data:`MEAN_SCORE` from each task's usual metric, which has no bound below where it is R².

    Args:
        target: Several tasks.
        measured: The usual metric by the task's name, of any shape; NaN where it is undefined, and so is the mean.
    """
    return np.mean([np.maximum(measured[part.name], 0.0) for part in parts_of(target)], axis=0)


def higher_is_better(name: str) -> bool:
    """Return whether a greater value of this metric is a better one.

    Raises:
        ConfigError: There is no such metric.
    """
    known = {MEAN_SCORE, *(metric for metrics in METRICS.values() for metric in metrics)}
    if plain_name(name) not in known:
        raise ConfigError(
            f"metric: {name!r} is unknown.{suggestion(name, sorted(known))} Known: {', '.join(sorted(known))}."
        )
    return plain_name(name) not in LOWER_IS_BETTER


def objective_error(name: str, value: float) -> float:
    """Return what a search minimises: ``1 - value`` for metrics of which more is better, else the value."""
    return 1.0 - value if higher_is_better(name) else value


def measure(
    logits: np.ndarray, labels: np.ndarray, target: Target, *, target_scale: Scale | None = None
) -> dict[str, float]:
    """Return every metric of the task that these labels define.

    Args:
        logits: Model outputs ``[n C]``.
        labels: Classes ``[n]``, or labels or standardised values ``[n C]``.
        target: What is predicted.
        target_scale: Mean and standard deviation ``[C]`` of the train targets: regression metrics are then in the
            units of the data.

    Raises:
        ValueError: There are no examples, or logits and labels differ in length.
    """
    if not len(logits) or len(logits) != len(labels):
        raise ValueError(f"measure needs as many logits as labels, at least one, but got {len(logits)}, {len(labels)}.")
    outputs = np.asarray(logits, dtype=np.float64)
    if target.tasks:
        return _several(outputs, labels, target, target_scale)
    if target.task == "classification":
        return _classification(outputs, np.asarray(labels, dtype=np.int64))
    if target.task == "multilabel":
        return _multilabel(outputs, np.asarray(labels) > 0.5)
    if target.task == "contrastive":
        return retrieval(outputs, np.asarray(labels))
    mean, deviation = target_scale or (np.zeros(1), np.ones(1))
    values = np.asarray(labels, dtype=np.float64)
    return _regression(outputs * deviation + mean, values * deviation + mean)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, *, bins: int = CALIBRATION_BINS) -> float:
    """Return the gap between confidence and accuracy, averaged over equal-width bins of confidence.

    Naeini et al. 2015, in the form of Guo et al. 2017 (https://arxiv.org/abs/1706.04599).

    Args:
        confidence: Probability of the predicted class ``[n]``.
        correct: Whether it was right ``[n]``.
        bins: How many bins.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(place, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def area_under_roc(scores: np.ndarray, positives: np.ndarray) -> float | None:
    """Return the exact area (ties count half), or None where only positives or only negatives are present.

    Args:
        scores: Greater means more likely positive ``[n]``.
        positives: Boolean ``[n]``.
    """
    hits, misses = _curve(scores, positives)
    if hits[-1] == 0 or misses[-1] == 0:
        return None
    widths, heights = np.diff(misses, prepend=0), hits - np.diff(hits, prepend=0) / 2
    return float((widths * heights).sum() / (hits[-1] * misses[-1]))


def average_precision(scores: np.ndarray, positives: np.ndarray) -> float | None:
    """Return the sum of precision times gain in recall over thresholds, or None where there are no positives."""
    hits, misses = _curve(scores, positives)
    if hits[-1] == 0:
        return None
    return float((np.diff(hits, prepend=0) * hits / (hits + misses)).sum() / hits[-1])


def _curve(scores: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return true and false positives at each distinct threshold, highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered, relevant = scores[order], positives[order]
    last = np.r_[np.flatnonzero(np.diff(ordered)), len(ordered) - 1]
    hits = np.cumsum(relevant)[last].astype(np.float64)
    return hits, last + 1 - hits


def _classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    classes = logits.shape[1]
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    p, predicted = np.exp(log_p), logits.argmax(1)
    correct = predicted == labels
    actual = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[correct], minlength=classes)
    guessed = np.bincount(predicted, minlength=classes)
    seen, involved = actual > 0, (actual + guessed) > 0
    metrics: dict[str, float | None] = {
        "accuracy": float(correct.mean()),
        "balanced_accuracy": float((hits[seen] / actual[seen]).mean()),
        "f1_macro": float((2 * hits[involved] / (actual + guessed)[involved]).mean()),
        "log_loss": float(-log_p[np.arange(len(labels)), labels].mean()),
        "auroc": _class_auroc(p, labels),
        "ece": expected_calibration_error(p.max(1), correct),
    }
    return _defined(metrics)


def _class_auroc(p: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the area for two classes, or one against the rest averaged over the classes present; None if undefined."""
    if p.shape[1] == 2:
        return area_under_roc(p[:, 1], labels == 1)
    return _mean_over_labels(area_under_roc, p, labels[:, None] == np.arange(p.shape[1]))


def _multilabel(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    predicted = logits > 0
    hits, both = (predicted & labels).sum(0), predicted.sum(0) + labels.sum(0)
    involved = both > 0
    return _defined(
        {
            "map": _mean_over_labels(average_precision, logits, labels),
            "f1_micro": float(2 * hits.sum() / both.sum()) if both.sum() else None,
            "f1_macro": float((2 * hits[involved] / both[involved]).mean()) if involved.any() else None,
            "log_loss": float(np.logaddexp(0, np.where(labels, -logits, logits)).mean()),
        }
    )


def _regression(values: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    error = values - truth
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    varied = spread > 0
    explained = 1 - (error**2).sum(0)[varied] / spread[varied]
    return _defined(
        {
            "r2": float(explained.mean()) if varied.any() else None,
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
        }
    )


def _several(logits: np.ndarray, labels: np.ndarray, target: Target, scale: Scale | None) -> dict[str, float]:
    """Measure each task on the rows that have a label of it."""
    found: dict[str, float] = {}
    for part in parts_of(target):
        known, own = part.of(np.asarray(labels))
        if known.any():
            each = measure(logits[known][:, part.outputs], own, part.target, target_scale=part.scale(scale))
            found |= {f"{part.name}/{name}": value for name, value in each.items()}
    usual = {part.name: found.get(f"{part.name}/{METRICS[part.target.task][0]}") for part in parts_of(target)}
    if all(value is not None for value in usual.values()):
        found = {
            MEAN_SCORE: float(mean_score(target, {name: np.array(value) for name, value in usual.items()}))
        } | found
    return found


def _mean_over_labels(
    metric: Callable[[np.ndarray, np.ndarray], float | None], scores: np.ndarray, labels: np.ndarray
) -> float | None:
    each = [metric(scores[:, c], labels[:, c]) for c in range(scores.shape[1])]
    defined = [value for value in each if value is not None]
    return float(np.mean(defined)) if defined else None


def _defined(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}
