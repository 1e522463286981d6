"""How sure we are: bootstrap intervals clustered by group, paired gains, verdicts and power.

Groups are drawn with replacement, one fewer than there are (Rao and Wu 1988), and to each resample is added what the
mean over seeds may differ from that over all seeds: Student's t with the standard error over seeds, because a handful
of seeds cannot be resampled (three would cover 75 % of the truth instead of 95 %). Errors on the wide side are those of
the pigeonhole bootstrap (Owen 2007, https://arxiv.org/abs/0712.1111): what examples and seeds share counts twice. With
one seed the interval is about that trained model, not about training it again. Two seeds have the quantiles of three,
since with one degree of freedom nothing could be shown: they cover 85 % where seeds are all that differs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy.special import ndtri

from chiasma.core.errors import DataError
from chiasma.core.rng import numpy_rng
from chiasma.data.dataset import Dataset
from chiasma.data.signature import Target
from chiasma.experiment.results import Gain, Interval
from chiasma.experiment.weighted_metrics import RANKED, GroupMetric, group_metric
from chiasma.train.metrics import MEAN_SCORE, Scale, higher_is_better, metrics_of, plain_name
from chiasma.train.retrieval import MEDIAN_RANKS, RETRIEVAL_METRICS

LEVEL = 0.95
RESAMPLES = 2000
POWER = 0.8
BLOCK = 4_000_000
RANKED_WORK = 40_000_000
FEWEST_RANKED = 200
FEWEST_DIFFERING = 4
FEWEST_FREEDOM = 2
BOUNDED = frozenset(
    {
        *("accuracy", "balanced_accuracy", "f1", "f1_macro", "f1_micro", "auroc", "map", "ece", MEAN_SCORE),
        *(name for name in RETRIEVAL_METRICS if name not in MEDIAN_RANKS),
    }
)


class UndefinedMetricError(DataError):
    """The labels do not define the metric: an area under the ROC curve of one class, R² of equal values."""


@dataclass(frozen=True)
class Bootstrap:
    """The examples on which arms are judged, and how they are resampled: every arm sees the same draws.

    Attributes:
        labels: Classes ``[n]``, or labels or standardised values ``[n C]``.
        groups: Examples of one group (same image, duplicates, one value of the data's group column) share a number.
        target: What is predicted.
        target_scale: Mean and standard deviation ``[C]`` of the train targets, for regression in the data's units.
        level: Confidence of the intervals.
        resamples: Replicates; areas under curves use fewer on large data, at least 200.
        seed: Of the draws.

    Raises:
        DataError: There are fewer than two groups.
        ValueError: Labels and groups differ in length.
    """

    labels: np.ndarray
    groups: np.ndarray
    target: Target
    target_scale: Scale | None = None
    level: float = LEVEL
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.groups):
            raise ValueError(f"each label needs a group, but there are {len(self.labels)} and {len(self.groups)}.")
        names, place = np.unique(self.groups, return_inverse=True)
        if len(names) < 2:
            raise DataError(f"an interval needs at least two independent groups of examples, but got {len(names)}.")
        object.__setattr__(self, "groups", place)

    @classmethod
    def over(
        cls, dataset: Dataset, rows: np.ndarray, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
    ) -> Self:
        """Return the intervals over some rows of a dataset."""
        return cls(
            labels=dataset.labels(rows).numpy(),
            groups=dataset.groups(rows),
            target=dataset.signature.target,
            target_scale=dataset.target_scale,
            level=level,
            resamples=resamples,
            seed=seed,
        )

    @property
    def count(self) -> int:
        """Return how many groups there are."""
        return int(self.groups.max()) + 1

    def interval(self, logits: np.ndarray, metric: str) -> Interval:
        """Return a metric, averaged over seeds, with its percentile interval.

        Args:
            logits: Model outputs of each seed's training ``[S n C]``.
            metric: A metric of the task.

        Raises:
            UndefinedMetricError: The labels do not define the metric.
            ValueError: The shapes do not fit together.
        """
        measured = self._measured(logits, metric)
        value = self._value(measured, metric)
        replicates, _ = self._replicates(measured, self._resamples(logits, metric))
        low, high = self._percentiles(replicates, value, metric)
        if plain_name(metric) in BOUNDED:
            low, high = max(0.0, low), min(1.0, high)
        if metric == "accuracy" and low == high and value in (0.0, 1.0):
            # No resample of all-right answers contains a wrong one: take the exact binomial bound for so many groups.
            bound = ((1 - self.level) / 2) ** (1 / self.count)
            low, high = (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
        return Interval(value=value, low=low, high=high, level=self.level)

    def intervals(self, logits: np.ndarray) -> dict[str, Interval]:
        """Return the interval of every metric of the task that these labels define."""
        found: dict[str, Interval] = {}
        for metric in metrics_of(self.target):
            try:
                found[metric] = self.interval(logits, metric)
            except UndefinedMetricError:
                continue
        return found

    def paired_gain(self, winner: np.ndarray, other: np.ndarray, metric: str) -> tuple[Interval, float]:
        """Return by how much the winner is better, and the smallest gain that these examples would detect.

        Both arms are resampled jointly: the same groups and the same seeds. An arm with one fit (logistic regression
        has no seed) is paired with every seed of the other.

        Args:
            winner: Model outputs ``[S n C]``.
            other: Model outputs ``[S n C]`` or ``[1 n C]``.
            metric: A metric of the task.

        Returns:
            The gain, positive where the winner is better also for metrics of which less is better; and the gain that
            would be detected with 80 % power at this level.

        Raises:
            UndefinedMetricError: The labels do not define the metric.
            ValueError: The shapes do not fit together.
        """
        if len(winner) != len(other) and 1 not in (len(winner), len(other)):
            raise ValueError(f"paired arms need as many seeds, or one, but got {len(winner)} and {len(other)}.")
        sign = 1.0 if higher_is_better(metric) else -1.0
        ahead, behind = self._measured(winner, metric), self._measured(other, metric)
        pairs = max(len(ahead), len(behind))
        ahead, behind = ahead * (pairs // len(ahead)), behind * (pairs // len(behind))
        differences = [_difference(first, second, sign) for first, second in zip(ahead, behind, strict=True)]
        value = self._value(differences, metric)
        replicates, error = self._replicates(differences, self._resamples(winner, metric))
        low, high = self._percentiles(replicates, value, metric)
        if metric == "accuracy":
            # Fewer than four differing groups are never significant, however small the spread that was seen.
            error = max(error, np.sqrt(FEWEST_DIFFERING) / self.count)
        gain = Interval(value=value, low=low, high=high, level=self.level)
        return gain, detectable_gain(error, level=self.level)

    def gain_against(self, name: str, winner: np.ndarray, other: np.ndarray, *, metric: str) -> Gain:
        """Return :meth:`paired_gain` against the arm ``name`` with its verdict, as the report shows it."""
        gain, detectable = self.paired_gain(winner, other, metric)
        return Gain(against=name, metric=metric, gain=gain, verdict=verdict(gain), detectable=detectable)

    def _measured(self, logits: np.ndarray, metric: str) -> list[GroupMetric]:
        if logits.ndim != 3 or not len(logits) or logits.shape[1] != len(self.labels):
            raise ValueError(
                f"logits must be [seeds, {len(self.labels)} examples, outputs], but have shape {logits.shape}."
            )
        return [
            group_metric(
                metric,
                one,
                labels=self.labels,
                groups=self.groups,
                target=self.target,
                target_scale=self.target_scale,
            )
            for one in logits
        ]

    def _value(self, measured: list[GroupMetric], metric: str) -> float:
        value = float(np.mean([one(np.ones((1, self.count)))[0] for one in measured]))
        if np.isnan(value):
            raise UndefinedMetricError(f"{metric} is not defined on these labels.")
        return value

    def _resamples(self, logits: np.ndarray, metric: str) -> int:
        if plain_name(metric) not in RANKED:
            return self.resamples
        return min(self.resamples, max(FEWEST_RANKED, RANKED_WORK // logits.size))

    def _replicates(self, measured: list[GroupMetric], resamples: int) -> tuple[np.ndarray, float]:
        """Return the metric on drawn groups with the luck of the seeds ``[resamples]``, and its standard error."""
        rng = numpy_rng(self.seed, "bootstrap")
        blocks = [np.mean([one(weights) for one in measured], axis=0) for weights in _draws(rng, self.count, resamples)]
        values = np.concatenate(blocks)
        over_groups = float(np.nanstd(values, ddof=1))
        seeds = len(measured)
        if seeds == 1:
            return values, over_groups
        once = np.ones((1, self.count))
        over_seeds = float(np.std([one(once)[0] for one in measured], ddof=1)) / math.sqrt(seeds)
        luck = rng.standard_t(max(FEWEST_FREEDOM, seeds - 1), size=resamples)
        return values + over_seeds * luck, math.hypot(over_groups, over_seeds)

    def _percentiles(self, replicates: np.ndarray, value: float, metric: str) -> tuple[float, float]:
        defined = replicates[~np.isnan(replicates)]
        if len(defined) < len(replicates) / 2:
            raise UndefinedMetricError(
                f"{metric} is defined on only {len(defined)} of {len(replicates)} resamples of these labels."
            )
        low, high = np.quantile(defined, [(1 - self.level) / 2, (1 + self.level) / 2])
        return min(float(low), value), max(float(high), value)


def metric_interval(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    metric: str,
    target: Target,
    target_scale: Scale | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return :meth:`Bootstrap.interval` of one metric; arguments as there."""
    return Bootstrap(labels, groups, target, target_scale, level, resamples, seed).interval(logits, metric)


def paired_gain(
    winner: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    metric: str,
    target: Target,
    target_scale: Scale | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Return :meth:`Bootstrap.paired_gain`; arguments as there."""
    bootstrap = Bootstrap(labels, groups, target, target_scale, level, resamples, seed)
    return bootstrap.paired_gain(winner, other, metric)


def verdict(gain: Interval) -> Literal["better", "worse", "no difference"]:
    """Return what a gain's interval says: a difference is claimed only where the interval excludes zero."""
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "no difference"


def detectable_gain(standard_error: float, *, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest true gain found with this power in a two-sided test: ``(z_level + z_power) * SE``."""
    return float((ndtri((1 + level) / 2) + ndtri(power)) * standard_error)


def _difference(ahead: GroupMetric, behind: GroupMetric, sign: float) -> GroupMetric:
    return lambda weights: sign * (ahead(weights) - behind(weights))


def _draws(rng: np.random.Generator, count: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield how often each of ``count`` groups was drawn, ``[block count]`` at a time."""
    rows = max(1, BLOCK // count)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = rng.integers(0, count, size=(block, count - 1)) + count * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * count).reshape(block, count).astype(np.float64)
