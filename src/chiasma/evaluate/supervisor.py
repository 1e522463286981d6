"""The thread that owns the workers: it starts them, feeds them, and ends those that are late."""

import logging
import os
import queue
import selectors
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from chiasma.core.files import storage_errors
from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.evaluate.driver_end import Assignment, DriverEnd
from chiasma.evaluate.job import Job
from chiasma.evaluate.worker import ALIVE, READY, Answer

LONGEST_TRIES = 2
STARTS_BEFORE_GIVING_UP = 3
IDLE_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class End:
    """A job that ended, on its way to the caller."""

    handle: int
    job: Job
    outcome: Scored | Rejected | Failed
    seconds: float


class Supervisor:
    """Keeps ``workers`` workers alive and busy, wherever they run.

    Only its own thread touches workers: Linux kills a child when the *thread* that started it ends, and select,
    kill and deadline need one order. Callers put commands into a queue and wake it.

    Args:
        workers: How many.
        hire: Starts one worker; it is given the open log, for what the worker prints or dies of.
        log: File of the log; None discards it at the end.
        grace_seconds: How long after its limit a job may still answer by itself.
        start_seconds: How long a worker may take until it is ready.
        lease_seconds: A worker that gives no sign of life for so long counts as dead.
    """

    def __init__(
        self,
        workers: int,
        hire: Callable[[IO[bytes]], DriverEnd],
        *,
        log: Path | None,
        grace_seconds: float,
        start_seconds: float,
        lease_seconds: float,
    ) -> None:
        self.results: queue.SimpleQueue[End | BaseException] = queue.SimpleQueue()
        self.retries = 0
        self._size, self._hire = workers, hire
        self._grace_seconds, self._start_seconds, self._lease_seconds = grace_seconds, start_seconds, lease_seconds
        self._log = _open_log(log)
        self._workers: list[DriverEnd] = []
        self._waiting: deque[Assignment] = deque()
        self._failed_starts = 0
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = os.pipe()
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._guarded, name="executor", daemon=True)

    def start(self) -> None:
        """Start the thread, which starts the workers."""
        os.set_blocking(self._woken, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def submit(self, handle: int, job: Job) -> None:
        """Queue a job.

        Raises:
            ValueError: The executor is closed.
        """
        if self._closing:
            raise ValueError(f"The executor is closed and takes no jobs, but was given {job.key!r}.")
        self._command_thread(lambda: self._waiting.append(Assignment(handle, job)))

    def cancel(self, handle: int) -> None:
        """Forget a job, killing the worker that has it."""
        self._command_thread(lambda: self._forget(handle))

    def close(self) -> None:
        """Kill the workers and wait until they are gone."""
        if self._closed:
            return
        self._closing = self._closed = True
        self._command_thread(lambda: None)
        self._thread.join()
        self._selector.close()
        os.close(self._woken)
        os.close(self._waker)
        self._log.close()

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers that live now."""
        return [worker.pid for worker in list(self._workers) if worker.pid is not None]

    def _command_thread(self, command: Callable[[], None]) -> None:
        self._commands.put(command)
        os.write(self._waker, b".")

    def _guarded(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: the caller must not wait for ever.
            self.results.put(error)
        finally:
            for worker in self._workers:
                worker.kill()
            self._workers.clear()

    def _turn(self) -> None:
        """Do what is asked and possible, wait for news, hear all of it, and only then end those that are late.

        The order matters after a pause of this process: an answer that arrived in time must not be lost to a deadline
        that passed while nobody looked.
        """
        self._obey()
        self._staff()
        for key, _ in self._selector.select(self._patience()):
            if isinstance(key.data, DriverEnd) and key.data in self._workers:
                self._hear(key.data)
        for worker in list(self._workers):
            self._check_clock(worker)

    def _obey(self) -> None:
        try:
            while os.read(self._woken, 4096):
                pass
        except BlockingIOError:
            pass
        while not self._commands.empty():
            self._commands.get()()

    def _staff(self) -> None:
        """Replace missing workers, unless they never start, and give each idle one a job."""
        if self._failed_starts >= STARTS_BEFORE_GIVING_UP:
            while self._waiting:
                error = f"Worker processes do not start ({self._failed_starts} tries in a row). {self._last_words()}"
                self._finish(self._waiting.popleft(), Failed(error=error))
        while len(self._workers) < self._size and self._failed_starts < STARTS_BEFORE_GIVING_UP:
            worker = self._hire(self._log)
            self._workers.append(worker)
            self._selector.register(worker, selectors.EVENT_READ, worker)
        for worker in self._workers:
            if worker.ready and worker.assignment is None and self._waiting:
                worker.give(self._waiting.popleft())

    def _patience(self) -> float:
        """Return how long nothing needs to be done unless somebody speaks."""
        ends = [min(self._late_at(worker), self._silent_at(worker)) for worker in self._workers]
        return max(0.0, min([*ends, time.monotonic() + IDLE_SECONDS]) - time.monotonic())

    def _late_at(self, worker: DriverEnd) -> float:
        if not worker.ready:
            return worker.born + self._start_seconds
        return worker.assignment.kill_at(self._grace_seconds) if worker.assignment else float("inf")

    def _silent_at(self, worker: DriverEnd) -> float:
        """Return when a worker that gives no sign of life is taken for dead."""
        return worker.heard + self._lease_seconds if worker.ready else float("inf")

    def _hear(self, worker: DriverEnd) -> None:
        """Take a worker's messages; if it is gone, what it still said counts first."""
        try:
            messages, gone = worker.read()
            for message in messages:
                gone = self._take(worker, message) or gone
        except ValueError as error:
            logger.warning("Worker %s broke the protocol and is replaced: %s", worker.pid, error)
            gone = True
        if gone:
            self._bury(worker)

    def _take(self, worker: DriverEnd, message: Any) -> bool:
        """Take one message and return whether the worker is leaving.

        Raises:
            ValueError: It is no message of the protocol.
        """
        if message == READY:
            worker.ready, self._failed_starts = True, 0
            return False
        if message == ALIVE:
            return False
        answer = Answer.model_validate(message)
        given = worker.assignment
        if given is None or (answer.key, answer.attempt) != (given.job.key, given.attempt):
            logger.warning("A stale answer to %s, attempt %s, is dropped.", answer.key, answer.attempt)
            return False
        worker.assignment = None
        self._finish(given, answer.outcome, seconds=answer.seconds)
        return answer.leaving

    def _check_clock(self, worker: DriverEnd) -> None:
        if time.monotonic() < min(self._late_at(worker), self._silent_at(worker)):
            return
        self._hear(worker)
        if worker not in self._workers:
            return
        if time.monotonic() < self._late_at(worker):
            if time.monotonic() >= self._silent_at(worker):
                logger.warning("Worker %s has been silent for %g s and is replaced.", worker.pid, self._lease_seconds)
                self._bury(worker)
            return
        given, worker.assignment = worker.assignment, None
        self._bury(worker)
        if given is not None:
            seconds = time.monotonic() - given.started
            reason = f"killed after {seconds:.1f} s: the limit is {given.job.time_limit_seconds:g} s"
            self._finish(given, Rejected(stage="deadline", reason=reason), seconds=seconds)

    def _bury(self, worker: DriverEnd) -> None:
        """Reap a worker; its job gets a second chance, before all others, and no third."""
        self._selector.unregister(worker)
        self._workers.remove(worker)
        how = worker.kill()
        if not worker.ready:
            self._failed_starts += 1
        given = worker.assignment
        if given is None:
            return
        given.lost_seconds += time.monotonic() - given.started
        if given.tries < LONGEST_TRIES:
            logger.warning("The worker of %s ended %s; the job is tried once more.", given.job.key, how)
            self.retries += 1
            self._waiting.appendleft(given)
        else:
            error = f"{given.tries} workers died on {given.job.key}, the last one {how}. {self._last_words()}"
            self._finish(given, Failed(error=error))

    def _forget(self, handle: int) -> None:
        self._waiting = deque(given for given in self._waiting if given.handle != handle)
        for worker in list(self._workers):
            if worker.assignment is not None and worker.assignment.handle == handle:
                worker.assignment = None
                self._bury(worker)

    def _finish(self, given: Assignment, outcome: Scored | Rejected | Failed, *, seconds: float = 0.0) -> None:
        self.results.put(End(given.handle, given.job, outcome, given.lost_seconds + seconds))

    def _last_words(self) -> str:
        """Return the last line of the workers' log, for an error message."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 2000))
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"Last line of the log: {lines[-1].strip()[:300]}" if lines else "The log is empty."


def _open_log(path: Path | None) -> IO[bytes]:
    if path is None:
        return tempfile.TemporaryFile("a+b")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+b")
