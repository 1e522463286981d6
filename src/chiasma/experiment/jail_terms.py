"""What a training in the jail may use under a run's settings, and what a reader must know of the jail it had."""

from collections.abc import Sequence
from typing import Any

import psutil

from chiasma.core.outcome import Outcome, Scored
from chiasma.evaluate.jailed_trial import WITHOUT
from chiasma.experiment.config import RunConfig

LEAST_SECONDS = 3600.0
PART_OF_MEMORY = 0.5
LEAST_BYTES = 2**30


def jail_terms(config: RunConfig) -> dict[str, Any]:
    """Return the jail's part of a search's task."""
    seconds = config.evaluate.jail_seconds or max(LEAST_SECONDS, config.run.budget.seconds or 0.0)
    return {**_terms(config, trainings=config.run.workers), "jail_seconds": seconds}


def alone(config: RunConfig) -> dict[str, Any]:
    """Return the jail's part of a job that has the machine to itself, and whose user waits for it."""
    return {**_terms(config, trainings=1), "finish_within_seconds": config.evaluate.jail_seconds}


def _terms(config: RunConfig, *, trainings: int) -> dict[str, Any]:
    given = config.evaluate.jail_gib
    share = max(LEAST_BYTES, int(PART_OF_MEMORY * psutil.virtual_memory().total / trainings))
    return {
        "accept_lesser_jail": config.evaluate.accept_lesser_jail,
        "jail_memory_bytes": share if given is None else int(given * 2**30),
    }


def lesser_jail(outcomes: Sequence[Outcome]) -> list[str]:
    """Return which guarantees of the jail did not hold while source was trained that nobody had approved."""
    known = (outcome.metrics for outcome in outcomes if isinstance(outcome, Scored))
    missing = sorted({name.removeprefix(WITHOUT) for each in known for name in each if name.startswith(WITHOUT)})
    if not missing:
        return []
    return [f"Generated source ran in a lesser jail (evaluate.accept_lesser_jail), without: {', '.join(missing)}."]
