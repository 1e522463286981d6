"""Run jobs in this process, one after the other: for tests, and where processes cannot be started."""

import time
from collections import deque
from collections.abc import Callable, Iterator

from chiasma.core.outcome import Rejected, Scored
from chiasma.evaluate.evaluator import Evaluator
from chiasma.evaluate.executor import Ended, Executor
from chiasma.evaluate.job import Job


class InlineExecutor(Executor):
    """Runs each job when it is awaited. Errors of ours are raised, not turned into outcomes.

    A deadline is looked at between jobs only, and nothing can kill a job: give jobs time limits of their own.

    Args:
        evaluate: Turns a job into an outcome; None trains it.
    """

    def __init__(self, evaluate: Callable[[Job], Scored | Rejected] | None = None) -> None:
        self._evaluate = Evaluator() if evaluate is None else evaluate
        self._waiting: deque[tuple[int, Job]] = deque()
        self._next = 0

    def submit(self, job: Job) -> int:
        """Queue a job and return a handle for :meth:`cancel`."""
        self._next += 1
        self._waiting.append((self._next, job))
        return self._next

    def as_completed(self, deadline: float | None = None) -> Iterator[Ended]:
        """Yield ``(job, outcome, seconds)`` in the order of submission; see :meth:`Executor.as_completed`."""
        while self._waiting and (deadline is None or time.monotonic() < deadline):
            _, job = self._waiting.popleft()
            started = time.monotonic()
            outcome = self._evaluate(job)
            yield job, outcome, time.monotonic() - started

    def cancel(self, handle: int) -> None:
        """Forget a job that has not run yet."""
        self._waiting = deque((known, job) for known, job in self._waiting if known != handle)

    def close(self) -> None:
        """Forget all jobs."""
        self._waiting.clear()
