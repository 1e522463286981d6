"""Run jobs somewhere and hand back their outcomes as they end."""

import queue
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.evaluate.job import Job
from chiasma.evaluate.supervisor import Supervisor
from chiasma.evaluate.worker_process import WorkerProcess

WORKER = (sys.executable, "-P", "-m", "chiasma.evaluate.worker")
Ended = tuple[Job, Scored | Rejected | Failed, float]


class Executor(ABC):
    """Takes jobs, answers outcomes; a context manager that leaves nothing running."""

    @abstractmethod
    def submit(self, job: Job) -> int:
        """Queue a job and return a handle for :meth:`cancel`."""

    @abstractmethod
    def as_completed(self, deadline: float | None = None) -> Iterator[Ended]:
        """Yield ``(job, outcome, seconds)`` as jobs end; jobs may be submitted meanwhile.

        Args:
            deadline: When to stop waiting (``time.monotonic()``); what ends later is yielded by a later call. None
                waits until nothing is outstanding.
        """

    @abstractmethod
    def cancel(self, handle: int) -> None:
        """Forget a job; one that is running is killed. Unknown and ended handles are ignored."""

    @abstractmethod
    def close(self) -> None:
        """End everything at once; what was outstanding is lost. Harmless when repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SupervisedExecutor(Executor):
    """Workers that a supervisor replaces, retries and ends; what they are is the subclass's matter.

    A worker that is killed or crashes is replaced and its job is given to a fresh one, once; after the second time the
    job has failed. A job that outlives its own time limit by the grace is killed and rejected. Deadlines belong to a
    thread of this process, so that they hold while the caller is busy.

    Args:
        supervisor: Not yet started.
        leave: Called once when all workers are gone.
    """

    def __init__(self, supervisor: Supervisor, *, leave: Callable[[], None] = lambda: None) -> None:
        self._supervisor = supervisor
        self._leave = leave
        self._outstanding: set[int] = set()
        self._next = 0
        self._closed = False
        self._supervisor.start()

    @property
    def retries(self) -> int:
        """Return how many jobs were given to a second worker because the first one died."""
        return self._supervisor.retries

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers that live now, as far as they are known."""
        return self._supervisor.worker_pids()

    def submit(self, job: Job) -> int:
        """Queue a job and return a handle for :meth:`cancel`.

        Raises:
            ValueError: The executor is closed.
        """
        self._next += 1
        self._supervisor.submit(self._next, job)
        self._outstanding.add(self._next)
        return self._next

    def as_completed(self, deadline: float | None = None) -> Iterator[Ended]:
        """Yield ``(job, outcome, seconds)`` as jobs end; see :meth:`Executor.as_completed`."""
        while self._outstanding:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                end = self._supervisor.results.get(timeout=wait)
            except queue.Empty:
                return
            if isinstance(end, BaseException):
                raise end
            if end.handle in self._outstanding:
                self._outstanding.remove(end.handle)
                yield end.job, end.outcome, end.seconds

    def cancel(self, handle: int) -> None:
        """Forget a job; one that is running is killed with its worker, which is replaced."""
        if handle in self._outstanding:
            self._outstanding.remove(handle)
            self._supervisor.cancel(handle)

    def close(self) -> None:
        """Kill the workers and wait until they are gone."""
        if self._closed:
            return
        self._closed = True
        self._outstanding.clear()
        try:
            self._supervisor.close()
        finally:
            self._leave()


class LocalExecutor(SupervisedExecutor):
    """Pre-warmed worker processes on this machine, one job each at a time.

    Args:
        workers: How many processes.
        threads: Threads each of them uses.
        log: File that their output is appended to; None discards it at the end.
        grace_seconds: How long after its limit a job may still answer by itself.
        start_seconds: How long a worker may take until it is ready.
        lease_seconds: A worker that gives no sign of life for so long, because it was stopped or hangs, counts as dead.
        command: The worker's program.

    Raises:
        ValueError: ``workers`` or ``threads`` is below one.
    """

    def __init__(
        self,
        workers: int,
        *,
        threads: int = 1,
        log: Path | None = None,
        grace_seconds: float = 1.0,
        start_seconds: float = 120.0,
        lease_seconds: float = 60.0,
        command: Sequence[str] = WORKER,
    ) -> None:
        check_positive(workers=workers, threads=threads)
        supervisor = Supervisor(
            workers,
            lambda words: WorkerProcess(command, threads=threads, log=words),
            log=log,
            grace_seconds=grace_seconds,
            start_seconds=start_seconds,
            lease_seconds=lease_seconds,
        )
        super().__init__(supervisor)


def check_positive(**numbers: int) -> None:
    """Refuse numbers below one.

    Raises:
        ValueError: One of them is.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}.")
