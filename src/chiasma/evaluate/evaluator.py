"""What a worker does with a job: a trial on its task, and on each further task that the same candidate must meet."""

import time
from pathlib import Path

from chiasma.core.outcome import Rejected, Scored
from chiasma.data.dataset import Dataset
from chiasma.evaluate.job import Job, on_task
from chiasma.evaluate.trial import run_trial

SUMMED = ("train_seconds",)
WORST = ("cut_short",)
LEAST_SECONDS = 0.01


class Evaluator:
    """Turns jobs into outcomes and keeps datasets open between them."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}

    def __call__(self, job: Job) -> Scored | Rejected:
        """Return what one job came to on all its tasks; see :func:`run_trial`.

        The first task on which the candidate is rejected ends it.
        """
        started = time.monotonic()
        outcome = run_trial(job, self._dataset(job))
        for name, other in job.also.items():
            if isinstance(outcome, Rejected):
                break
            rest = _with_what_is_left(other, job, spent=time.monotonic() - started)
            outcome = joined(outcome, name, run_trial(rest, self._dataset(rest)))
        return outcome

    def _dataset(self, job: Job) -> Dataset:
        if job.dataset not in self._datasets:
            self._datasets[job.dataset] = Dataset.open(Path(job.dataset))
        return self._datasets[job.dataset]


def joined(first: Scored, name: str, other: Scored | Rejected) -> Scored | Rejected:
    """Return one outcome of two trainings: the other's figures are called ``error@name`` and so on."""
    if isinstance(other, Rejected):
        return other.model_copy(update={"reason": f"{other.reason} ({name})"})
    metrics = {**first.metrics, **{on_task(key, name): value for key, value in other.metrics.items()}}
    for key in SUMMED:
        metrics[key] = first.metrics.get(key, 0.0) + other.metrics.get(key, 0.0)
    for key in WORST:
        metrics[key] = max(first.metrics.get(key, 0.0), other.metrics.get(key, 0.0))
    objectives = {on_task(key, name): value for key, value in other.objectives.items()}
    return Scored(objectives={**first.objectives, **objectives}, metrics=metrics)


def _with_what_is_left(other: Job, job: Job, *, spent: float) -> Job:
    """Return another task's training under the limits of the whole job."""
    limits = {
        name: max(LEAST_SECONDS, limit - spent)
        for name in ("time_limit_seconds", "finish_within_seconds")
        if (limit := getattr(job, name)) is not None
    }
    return other.model_copy(update=limits)
