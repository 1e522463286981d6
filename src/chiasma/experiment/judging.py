"""Measure trained arms on the select split, paired by example and seed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from chiasma.core.errors import DataError
from chiasma.data.dataset import Dataset
from chiasma.evaluate.job import on_task
from chiasma.experiment.arms import kept_logits
from chiasma.experiment.finals import TrainedArm
from chiasma.experiment.results import Interval
from chiasma.experiment.statistics import Bootstrap, UndefinedMetricError


class Judging:
    """Measures trained arms on the select split, paired by example and seed.

    Args:
        dataset: Whose select split judges.
        metric: The metric that decides.
        level: Level of the intervals.
        resamples: Bootstrap resamples.
        task: Name of the further task that the dataset is of; empty for the search's own.
    """

    def __init__(self, dataset: Dataset, *, metric: str, level: float, resamples: int, task: str = "") -> None:
        rows = dataset.rows("select")
        self.metric = metric
        self.task = task
        self.objective = on_task("error", task) if task else "error"
        self.bootstrap = Bootstrap.over(dataset, rows, level=level, resamples=resamples)

    def chance(self, floor: np.ndarray) -> float | None:
        """Return the metric of an answer that is the same for all examples ``[n C]``, or None where it defines none."""
        try:
            return self.bootstrap.interval(floor[None], self.metric).value
        except UndefinedMetricError:
            return None

    def score(self, arm: TrainedArm) -> Interval:
        """Return the metric of an arm with its interval over groups and seeds."""
        return self.bootstrap.interval(self._logits(arm), self.metric)

    def above(self, arms: Sequence[TrainedArm], floor: np.ndarray, *, tried: int = 0) -> bool | None:
        """Return whether any arm is shown to be better than one answer for all ``[n C]``.

        Args:
            arms: However many there are, the chance that one of them seems so by luck stays within the level.
            floor: The answer.
            tried: How many the arms are the best of on these rows and seeds, where these chose them.
        """
        level = 1 - (1 - self.bootstrap.level) / max(1, tried, len(arms))
        strict = replace(self.bootstrap, level=level)
        try:
            return any(strict.paired_gain(self._logits(arm), floor[None], self.metric)[0].low > 0 for arm in arms)
        except UndefinedMetricError:
            return None

    def gain(self, arm: TrainedArm, other: TrainedArm) -> Interval | None:
        """Return by how much one arm is better than another on the seeds that both have, or None without any."""
        rounds = {t.round for t in arm.trainings} & {t.round for t in other.trainings}
        if not rounds:
            return None
        try:
            gain, _ = self.bootstrap.paired_gain(self._logits(arm, rounds), self._logits(other, rounds), self.metric)
        except (DataError, UndefinedMetricError):
            return None
        return gain

    def _logits(self, arm: TrainedArm, rounds: set[int] | None = None) -> np.ndarray:
        chosen = [t for t in arm.trainings if rounds is None or t.round in rounds]
        return np.stack([kept_logits(t.folder / self.task) for t in sorted(chosen, key=lambda t: t.round)])
