"""Carry out jobs and record them: what is recorded is never trained again, and a resume replays it.

The loop that decides what to run next sees the same sequence of outcomes whether they come from worker processes now
or from the run's database, so that a killed run continues to the identical result.
"""

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.evaluate.executor import Executor
from chiasma.evaluate.job import Job
from chiasma.evaluate.training import NO_STEP
from chiasma.experiment.console import Console
from chiasma.store.run import RunStore

POLL_SECONDS = 0.2
MARGIN = 0.93
SHORTEST_SECONDS = 1.0
RETRIED = frozenset({"warmup", "final"})


class StopRequestedError(Exception):
    """The user asked to stop; everything that ended before is recorded."""


@dataclass(frozen=True)
class Work:
    """One training that the run wants.

    Attributes:
        job: What a worker is told; its key identifies the work before and after a resume.
        candidate: K in ``RUN#K``.
        purpose: ``warmup``, ``floor``, ``search`` or ``final``.
        until: Seconds after the run's start by which it ends with the best so far; None for no limit.
        share_seconds: Most seconds of its own, so that one training cannot use up what the others need.
        whole_or_nothing: An outcome that ``until`` cut short is not recorded: it would be compared with whole ones.
        turn: What has a lower turn goes first; equals in the order in which they were submitted.
    """

    job: Job
    candidate: int | None
    purpose: str
    until: float | None = None
    share_seconds: float | None = None
    whole_or_nothing: bool = False
    turn: int = 0


@dataclass(frozen=True)
class Finished:
    """A work and what it came to.

    Attributes:
        seconds: What it cost.
        elapsed: Seconds after the run's start at which it was recorded.
    """

    work: Work
    outcome: Scored | Rejected | Failed
    seconds: float
    elapsed: float


@dataclass
class Clock:
    """Seconds that the run has spent, also before it was interrupted."""

    spent_before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Return the seconds spent so far."""
        return self.spent_before + time.monotonic() - self.started


class Driver:
    """The only writer of a run: hands work to the executor, records outcomes, and remembers decisions.

    Args:
        store: The run, open for writing.
        executor: Where jobs are carried out.
        console: Asked whether the user wants to stop.
        clock: The run's clock.
        workers: How many jobs run at a time.
        recorded: Decisions of the run that this one repeats, by name.
    """

    def __init__(
        self,
        store: RunStore,
        executor: Executor,
        *,
        console: Console,
        clock: Clock,
        workers: int,
        recorded: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.store = store
        self.console = console
        self.clock = clock
        self.workers = workers
        self._executor = executor
        self._recorded = recorded or {}
        self._decisions = decisions_of(store)
        self._queue: list[tuple[int, int, Work]] = []
        self._submitted = 0
        self._ready: deque[Finished] = deque()
        self._running: dict[str, tuple[Work, Any, int]] = {}

    def decided(self, name: str) -> bool:
        """Return whether a decision of this name is recorded."""
        return name in self._decisions

    def decide(
        self, name: str, choose: Callable[[], Mapping[str, Any]], *, repeated: bool = False
    ) -> Mapping[str, Any]:
        """Return the recorded decision of this name, or take it now and record it.

        Whatever depends on the clock, or on a budget that a resume may enlarge, goes through here, so that a resume
        repeats it.

        Args:
            name: Unique in the run.
            choose: Takes the decision.
            repeated: A run that repeats another one decides as that one did.
        """
        if name not in self._decisions:
            value = dict(self._recorded[name] if repeated and name in self._recorded else choose())
            self.store.record_event("decision", {"name": name, "value": value, "elapsed": self.clock.elapsed()})
            self._decisions[name] = value
        return self._decisions[name]

    def submit(self, work: Work) -> None:
        """Queue work; what the database already answers is answered from there.

        A failure of ours is tried again only where nothing that was proposed later depended on it.
        """
        row = self.store.job(work.job.key)
        again = row is not None and isinstance(row.outcome, Failed) and work.purpose in RETRIED
        if row is not None and row.outcome is not None and not again:
            self._ready.append(Finished(work, row.outcome, row.seconds or 0.0, float(row.extra["elapsed"])))
        else:
            heapq.heappush(self._queue, (work.turn, self._submitted, work))
            self._submitted += 1

    @property
    def pending(self) -> int:
        """Return how much work has been submitted and not yet returned."""
        return len(self._queue) + len(self._ready) + len(self._running)

    def next(self) -> Finished | None:
        """Return the next outcome, or None after a short wait without one.

        Raises:
            StopRequestedError: The user asked to stop.
        """
        if self._ready:
            return self._ready.popleft()
        if self.console.interrupted:
            raise StopRequestedError
        self._feed()
        if not self._running:
            return None
        for job, outcome, seconds in self._executor.as_completed(time.monotonic() + POLL_SECONDS):
            work, _, attempt = self._running.pop(job.key)
            elapsed = self.clock.elapsed()
            if work.whole_or_nothing and _was_cut(outcome):
                continue
            # Record before anyone is told: a crash between the two replays this training instead of losing it.
            if self.store.finish_job(job.key, attempt, outcome=outcome, seconds=seconds, extra={"elapsed": elapsed}):
                self._ready.append(Finished(work, outcome, seconds, elapsed))
            break
        self._feed()
        return self._ready.popleft() if self._ready else None

    @property
    def running(self) -> int:
        """Return how many trainings are under way."""
        return len(self._running)

    def drop(self) -> int:
        """Forget queued work and stop what is running; return how many trainings were cut."""
        cut = len(self._running)
        for _, handle, _ in self._running.values():
            self._executor.cancel(handle)
        self._running.clear()
        self._queue.clear()
        return cut

    def finish_all(self, until: float | None = None, *, into: list[Finished] | None = None) -> list[Finished]:
        """Return all outstanding outcomes, in the order they were recorded; what is late is dropped.

        Args:
            until: Seconds after the run's start from which outcomes are late.
            into: Filled as outcomes come, so that they are at hand if the user stops.
        """
        found = [] if into is None else into
        while self.pending:
            finished = self.next()
            if finished is not None:
                found.append(finished)
            if until is not None and self.clock.elapsed() > until and not self._ready:
                self.drop()
        return found

    def _feed(self) -> None:
        """Keep every worker busy; hold the rest back so that a time limit counts from the moment a job starts."""
        while self._queue and len(self._running) < self.workers:
            _, _, work = heapq.heappop(self._queue)
            job = work.job
            if work.until is not None:
                left = work.until - self.clock.elapsed()
                if left < SHORTEST_SECONDS:
                    continue
                within = min(MARGIN * left, work.share_seconds or math.inf)
                job = job.model_copy(update={"finish_within_seconds": within})
            attempt = self.store.begin_job(job.key, work.candidate, rung=job.rung, seed=job.seed, purpose=work.purpose)
            handle = self._executor.submit(job.model_copy(update={"attempt": attempt}))
            self._running[job.key] = (work, handle, attempt)


def _was_cut(outcome: Scored | Rejected | Failed) -> bool:
    """Return whether the end of the time for it, not the candidate, ended a training."""
    if isinstance(outcome, Scored):
        return bool(outcome.metrics.get("cut_short"))
    return isinstance(outcome, Rejected) and outcome.reason.startswith(NO_STEP)


def decisions_of(store: RunStore) -> dict[str, Mapping[str, Any]]:
    """Return what a run has decided, by name."""
    found: dict[str, Mapping[str, Any]] = {}
    for event in store.events("decision"):
        found.setdefault(event.data["name"], event.data["value"])
    return found


def spent_seconds(store: RunStore) -> float:
    """Return the seconds that a run had spent when something was last recorded in it."""
    jobs = [float(row.extra["elapsed"]) for row in store.jobs() if row.outcome is not None]
    decisions = [float(event.data["elapsed"]) for event in store.events("decision")]
    return max([0.0, *jobs, *decisions])
