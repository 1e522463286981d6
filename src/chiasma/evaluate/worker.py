"""The worker process: reads jobs, answers outcomes, one JSON line each, and dies with its driver.

Started as ``python -m chiasma.evaluate.worker --driver PID``. Nothing is pickled. Whatever a job prints goes to the
log, because the protocol has a descriptor of its own.
"""

import argparse
import ctypes
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from chiasma.core.outcome import Failed, Outcome, Rejected, Scored
from chiasma.core.spec import Spec

Evaluate = Callable[[Mapping[str, Any]], Scored | Rejected | Failed]
PR_SET_PDEATHSIG = 1
READY = {"ready": True}
ALIVE = {"alive": True}
HEARTBEAT_SECONDS = 2.0


class Answer(Spec):
    """What a worker says about one job.

    Attributes:
        key: The job's.
        attempt: The job's; the driver drops answers to earlier ones.
        outcome: What it came to.
        seconds: What it took.
        leaving: Whether the worker ends now, because it met an error of ours and is not to be trusted again.
    """

    key: str
    attempt: int
    outcome: Outcome
    seconds: float
    leaving: bool


class Protocol:
    """The line to the driver: answers, and between them signs of life."""

    def __init__(self, line: TextIO) -> None:
        self._line = line
        self._lock = threading.Lock()

    def say(self, message: Mapping[str, Any]) -> None:
        """Send one message; leave where nobody listens any more."""
        try:
            with self._lock:
                self._line.write(json.dumps(message) + "\n")
                self._line.flush()
        except BrokenPipeError:
            os._exit(0)

    def keep_alive(self) -> None:
        """Send a sign of life every two seconds: a process that is stopped or hangs in native code sends none."""
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            self.say(ALIVE)


def serve(prepare: Callable[[], Evaluate]) -> None:
    """Answer jobs until the driver closes our input.

    Args:
        prepare: Imports and warms up whatever is slow the first time; returns what turns a job into an outcome.
    """
    protocol = Protocol(_take_protocol())
    die_with_driver(_driver())
    # Ctrl-C in the terminal is for the driver, which decides what becomes of a job that is under way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    evaluate = prepare()
    protocol.say(READY)
    threading.Thread(target=protocol.keep_alive, daemon=True).start()
    leaving = False
    while not leaving:
        answer = answer_job(evaluate, jobs.get())
        leaving = answer.leaving
        protocol.say(answer.to_dict())


def die_with_driver(driver: int) -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere the end of our input does it, a little later."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != driver:  # It ended before we asked.
            os._exit(1)


def answer_job(evaluate: Evaluate, job: Mapping[str, Any]) -> Answer:
    """Return what a job came to; after an error of ours, the process can no longer be trusted."""
    started = time.monotonic()
    leaving = False
    try:
        outcome = evaluate(job)
    except Exception as error:  # noqa: BLE001 - the process boundary: it becomes a typed outcome.
        traceback.print_exc()
        outcome, leaving = Failed(error=f"{type(error).__name__}: {error}"), True
    seconds = time.monotonic() - started
    return Answer(key=job["key"], attempt=job["attempt"], outcome=outcome, seconds=seconds, leaving=leaving)


def _take_protocol() -> TextIO:
    """Keep the real standard output for the protocol and point everything that prints at the log."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return protocol


def _listen(jobs: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Queue jobs as they come; when the driver is gone, leave at once, in whatever the main thread is."""
    for line in sys.stdin.buffer:
        jobs.put(json.loads(line))
    os._exit(0)


def _driver() -> int:
    parser = argparse.ArgumentParser(description="Train and measure designs that a driver sends as JSON lines.")
    parser.add_argument("--driver", type=int, required=True, help="process id of the driver")
    return int(parser.parse_args().driver)


def prepare_trials() -> Evaluate:
    """Import torch, train one step of everything so that the first job is not slow, and return the evaluator."""
    from chiasma.evaluate.evaluator import Evaluator
    from chiasma.evaluate.job import Job
    from chiasma.evaluate.warm_up import warm_up

    warm_up(threads=int(os.environ.get("OMP_NUM_THREADS", "1")))
    evaluator = Evaluator()
    return lambda job: evaluator(Job.from_dict(job))


if __name__ == "__main__":
    serve(prepare_trials)
