"""The driver's end of one worker, wherever the worker runs."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from chiasma.evaluate.jail.jail import START_SECONDS
from chiasma.evaluate.job import Job
from chiasma.model.generated import unapproved_in

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Assignment:
    """A job on its way through the executor.

    Attributes:
        handle: What ``submit`` returned.
        job: As submitted.
        tries: Workers that it was given to.
        lost_seconds: What was spent on workers that died.
        started: When the present worker got it (monotonic).
    """

    handle: int
    job: Job
    tries: int = 0
    lost_seconds: float = 0.0
    started: float = 0.0

    @property
    def attempt(self) -> int:
        """Return the attempt that the present worker was told; answers to others are stale."""
        return self.job.attempt + self.tries - 1

    def kill_at(self, grace_seconds: float) -> float:
        """Return when (monotonic) the driver's patience ends."""
        limit = self.job.time_limit_seconds
        if limit is None:
            return float("inf")
        # The jail ends its child in time by itself; that it had to be started first is not the candidate's fault.
        starting = START_SECONDS if unapproved_in(self.job.design) else 0.0
        return self.started + limit + grace_seconds + starting


class DriverEnd(ABC):
    """One worker as the supervisor sees it; a selector can watch it.

    Attributes:
        born: When it was asked for (monotonic).
        heard: When it last gave a sign of life (monotonic).
        ready: Whether it takes jobs.
        assignment: What it is busy with.
    """

    def __init__(self) -> None:
        self.born = self.heard = time.monotonic()
        self.ready = False
        self.assignment: Assignment | None = None

    def give(self, assignment: Assignment) -> None:
        """Send a job; a worker that is dead already is noticed by the next read."""
        assignment.tries += 1
        self.assignment = assignment
        self.send(assignment.job.model_copy(update={"attempt": assignment.attempt}).to_json().encode())
        # Only now: were this process stopped before the write, the worker's time would pass without a job.
        assignment.started = time.monotonic()

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Return the worker's process id, or None while it is not known."""

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor that becomes readable with news, for a selector."""

    @abstractmethod
    def send(self, job: bytes) -> None:
        """Send a job as JSON; a worker that is dead already is noticed by the next read."""

    @abstractmethod
    def read(self) -> tuple[list[Any], bool]:
        """Return the complete messages that have arrived, and whether the worker is gone."""

    @abstractmethod
    def kill(self) -> str:
        """End the worker and whatever it started, and return how it ended, to follow "ended" or "died"."""


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment variables that keep a worker to its threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"TOKENIZERS_PARALLELISM": "false"}
