"""The metrics of :mod:`chiasma.train.metrics` as functions of how often each group of examples was drawn.

The bootstrap asks for one metric under thousands of weightings of the same predictions. Most metrics are a function of
sums over examples, so that all weightings cost one matrix product; areas under curves need one sort and cumulative
sums. With every weight 1 each equals ``measure``.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import log_softmax

from chiasma.core.errors import ConfigError
from chiasma.data.several import parts_of
from chiasma.data.signature import Target
from chiasma.train.metrics import CALIBRATION_BINS, MEAN_SCORE, METRICS, Scale, mean_score
from chiasma.train.retrieval import Ranks, depth_of, rank_answers, ways_of

GroupMetric = Callable[[np.ndarray], np.ndarray]
"""Weights ``[R G]`` (draws of each group in each of R replicates) to the metric ``[R]``; NaN where undefined."""

RANKED = frozenset({"auroc", "map"})
CELLS = 4_000_000


def group_metric(
    name: str,
    logits: np.ndarray,
    *,
    labels: np.ndarray,
    groups: np.ndarray,
    target: Target,
    target_scale: Scale | None = None,
) -> GroupMetric:
    """Return a metric of fixed predictions as a function of the groups' weights.

    Args:
        name: A metric of the task.
        logits: Model outputs ``[n C]``.
        labels: Classes ``[n]``, or labels or standardised values ``[n C]``.
        groups: Each example's group as a position ``0..G-1`` ``[n]``.
        target: What is predicted.
        target_scale: Mean and standard deviation ``[C]`` of the train targets, for regression in the data's units.

    Raises:
        ConfigError: The task has no such metric.
    """
    outputs = np.asarray(logits, dtype=np.float64)
    if target.tasks:
        return _several(name, outputs, labels=labels, groups=groups, target=target, target_scale=target_scale)
    if target.task == "classification":
        return _classification(name, outputs, np.asarray(labels, dtype=np.int64), groups)
    if target.task == "multilabel":
        return _multilabel(name, outputs, np.asarray(labels) > 0.5, groups)
    if target.task == "contrastive":
        return _retrieval(name, outputs, np.asarray(labels), groups)
    mean, deviation = target_scale or (np.zeros(1), np.ones(1))
    values = np.asarray(labels, dtype=np.float64) * deviation + mean
    return _regression(name, outputs * deviation + mean, values, groups)


def _several(
    name: str,
    logits: np.ndarray,
    *,
    labels: np.ndarray,
    groups: np.ndarray,
    target: Target,
    target_scale: Scale | None,
) -> GroupMetric:
    """Return one task's metric over the rows that have a label of it, or the mean of each one's usual metric."""
    task, _, metric_name = name.rpartition("/")
    wanted = {task: metric_name}
    if name == MEAN_SCORE:
        wanted = {part.name: METRICS[part.target.task][0] for part in parts_of(target)}
    found: dict[str, GroupMetric] = {}
    for part in parts_of(target):
        known, own = part.of(np.asarray(labels))
        if part.name not in wanted:
            continue
        if not known.any():
            found[part.name] = _undefined
            continue
        there, places = np.unique(groups[known], return_inverse=True)
        scale = part.scale(target_scale)
        metric = group_metric(
            wanted[part.name],
            logits[known][:, part.outputs],
            labels=own,
            groups=places,
            target=part.target,
            target_scale=scale,
        )
        found[part.name] = _of_groups(metric, there)
    if not found:
        raise ConfigError(f"metric: {name!r} is not a metric of these tasks.")
    if name != MEAN_SCORE:
        return next(iter(found.values()))
    return lambda weights: mean_score(target, {each: metric(weights) for each, metric in found.items()})


def _retrieval(name: str, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> GroupMetric:
    """Return a metric of retrieval as a function of how often a query is drawn; the answers stay all of them."""
    if name not in METRICS["contrastive"]:
        raise ConfigError(f"metric: {name!r} is not a metric of contrastive.")
    ranked, depth = rank_answers(logits, labels), depth_of(name)
    if depth is None:
        return _median(ranked[ways_of(name)[0]], groups)
    ways = [
        _sums([(r.shares * (r.ranks <= depth))[:, None], r.shares[:, None]], groups, _mean_ratio)
        for r in (ranked[way] for way in ways_of(name))
    ]
    return lambda weights: np.mean([way(weights) for way in ways], axis=0)


def _median(ranked: Ranks, groups: np.ndarray) -> GroupMetric:
    order = np.argsort(ranked.ranks, kind="stable")

    def metric(weights: np.ndarray) -> np.ndarray:
        rows = max(1, CELLS // len(groups))
        blocks = [weights[start : start + rows] for start in range(0, len(weights), rows)]
        return np.concatenate([block_metric(block) for block in blocks])

    def block_metric(weights: np.ndarray) -> np.ndarray:
        covered = np.cumsum((weights[:, groups] * ranked.shares)[:, order], axis=1)
        return ranked.ranks[order][(covered >= covered[:, -1:] / 2 - 1e-9).argmax(1)]

    return metric


def _undefined(weights: np.ndarray) -> np.ndarray:
    return np.full(len(weights), np.nan)


def _of_groups(metric: GroupMetric, groups: np.ndarray) -> GroupMetric:
    return lambda weights: metric(weights[:, groups])


def _classification(name: str, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> GroupMetric:
    log_p, classes = log_softmax(logits, axis=1), np.arange(logits.shape[1])
    predicted = logits.argmax(1)
    actual, guessed = labels[:, None] == classes, predicted[:, None] == classes
    match name:
        case "accuracy":
            return _mean(predicted == labels, groups)
        case "log_loss":
            return _mean(-log_p[np.arange(len(labels)), labels], groups)
        case "balanced_accuracy":
            return _sums([actual & guessed, actual], groups, _mean_ratio)
        case "f1_macro":
            return _sums([2 * (actual & guessed), actual + 1 * guessed], groups, _mean_ratio)
        case "ece":
            confidence = np.exp(log_p).max(1)
            place = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
            gap = (place[:, None] == np.arange(CALIBRATION_BINS)) * (confidence - (predicted == labels))[:, None]
            size = np.ones((len(labels), 1))
            return _sums([gap, size], groups, lambda gaps, n: _ratio(np.abs(gaps).sum(1), n[:, 0]))
        case "auroc" if len(classes) == 2:
            return _ranked(np.exp(log_p)[:, 1:], actual[:, 1:], groups, _area)
        case "auroc":
            return _ranked(np.exp(log_p), actual, groups, _area)
    raise ConfigError(f"metric: {name!r} is not a metric of classification.")


def _multilabel(name: str, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> GroupMetric:
    predicted = logits > 0
    hits, both = 2 * (predicted & labels), 1 * predicted + labels
    match name:
        case "log_loss":
            return _mean(np.logaddexp(0, np.where(labels, -logits, logits)).mean(1), groups)
        case "f1_micro":
            return _sums([hits.sum(1, keepdims=True), both.sum(1, keepdims=True)], groups, _mean_ratio)
        case "f1_macro":
            return _sums([hits, both], groups, _mean_ratio)
        case "map":
            return _ranked(logits, labels, groups, _precision)
    raise ConfigError(f"metric: {name!r} is not a metric of multilabel.")


def _regression(name: str, values: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> GroupMetric:
    error = values - truth
    match name:
        case "mae":
            return _mean(np.abs(error).mean(1), groups)
        case "rmse":
            squared = _mean((error**2).mean(1), groups)
            return lambda weights: np.sqrt(squared(weights))
        case "r2":
            # Centred once, so that the sum of squares below does not cancel.
            centred = truth - truth.mean(0)
            return _sums([error**2, centred, centred**2, np.ones((len(truth), 1))], groups, _explained)
    raise ConfigError(f"metric: {name!r} is not a metric of regression.")


def _mean(values: np.ndarray, groups: np.ndarray) -> GroupMetric:
    parts = [np.asarray(values, dtype=np.float64)[:, None], np.ones((len(values), 1))]
    return _sums(parts, groups, lambda total, n: _ratio(total[:, 0], n[:, 0]))


def _sums(parts: list[np.ndarray], groups: np.ndarray, finish: Callable[..., np.ndarray]) -> GroupMetric:
    """Return ``finish`` of the weighted sums ``[R K]`` of each part ``[n K]``."""
    columns = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts], axis=1)
    table = np.zeros((int(groups.max()) + 1, columns.shape[1]))
    np.add.at(table, groups, columns)
    edges = np.cumsum([part.shape[1] for part in parts])[:-1]
    return lambda weights: finish(*np.split(weights @ table, edges, axis=1))


def _ranked(
    scores: np.ndarray,
    positives: np.ndarray,
    groups: np.ndarray,
    area: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> GroupMetric:
    """Return the mean over columns of an area under a curve, over the columns where it is defined."""
    # A column without positives is undefined under every weighting.
    columns = np.flatnonzero(positives.any(0))
    orders = [np.argsort(-scores[:, c], kind="stable") for c in columns]
    lasts = [
        np.r_[np.flatnonzero(np.diff(scores[order, c])), len(order) - 1]
        for c, order in zip(columns, orders, strict=True)
    ]

    def metric(weights: np.ndarray) -> np.ndarray:
        rows = max(1, CELLS // len(groups))
        blocks = [weights[start : start + rows] for start in range(0, len(weights), rows)]
        return np.concatenate([block_metric(block) for block in blocks])

    def block_metric(weights: np.ndarray) -> np.ndarray:
        each = np.full((len(weights), max(1, len(columns))), np.nan)
        for k, c in enumerate(columns):
            drawn = weights[:, groups[orders[k]]]
            hits = np.cumsum(drawn * positives[orders[k], c], axis=1)[:, lasts[k]]
            misses = np.cumsum(drawn, axis=1)[:, lasts[k]] - hits
            each[:, k] = area(hits, misses)
        return _mean_defined(each)

    return metric


def _area(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve ``[R]`` from cumulative counts ``[R thresholds]``; ties count half."""
    width = np.diff(misses, axis=1, prepend=0)
    height = hits - np.diff(hits, axis=1, prepend=0) / 2
    return _ratio((width * height).sum(1), hits[:, -1] * misses[:, -1])


def _precision(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Return the average precision ``[R]`` from cumulative counts ``[R thresholds]``."""
    above = hits + misses
    precision = np.divide(hits, above, out=np.zeros_like(above), where=above > 0)
    return _ratio((np.diff(hits, axis=1, prepend=0) * precision).sum(1), hits[:, -1])


def _explained(squared: np.ndarray, sums: np.ndarray, squares: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return R², averaged over the targets that vary."""
    spread = squares - sums**2 / np.maximum(n, 1)
    spread = np.where(spread > 1e-12 * np.maximum(squares, 1e-300), spread, 0.0)
    return _mean_defined(1 - _ratio(squared, spread))


def _mean_ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return _mean_defined(_ratio(part, whole))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row's numbers ``[R]``, NaN for a row without any."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(1), defined.sum(1).astype(np.float64))
