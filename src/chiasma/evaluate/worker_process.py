"""The driver's end of one worker process."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from chiasma.evaluate.job import Job

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
        return float("inf") if limit is None else self.started + limit + grace_seconds


class WorkerProcess:
    """A child in a session of its own, so that Ctrl-C in the terminal does not reach it.

    Args:
        command: Program and arguments; ``--driver PID`` is appended.
        threads: Threads that its libraries may use.
        log: Open file that receives everything it prints.
    """

    def __init__(self, command: Sequence[str], *, threads: int, log: IO[bytes]) -> None:
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [*command, "--driver", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._rest = b""
        self.born = self.heard = time.monotonic()
        self.ready = False
        self.assignment: Assignment | None = None

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor on which answers arrive, for a selector."""
        return self._output.fileno()

    def give(self, assignment: Assignment) -> None:
        """Send a job; a worker that is dead already is noticed by the next read."""
        assignment.tries += 1
        self.assignment = assignment
        wire = assignment.job.model_copy(update={"attempt": assignment.attempt})
        with suppress(BrokenPipeError):
            self._input.write(wire.to_json().encode() + b"\n")
        # Only now: were this process stopped before the write, the worker's time would pass without a job.
        assignment.started = time.monotonic()

    def read(self) -> tuple[list[Any], bool]:
        """Return the complete messages that have arrived, and whether the worker is gone."""
        gone = False
        while True:
            try:
                part = os.read(self._output.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not part:
                gone = True
                break
            self._rest += part
            self.heard = time.monotonic()
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines], gone

    def kill(self) -> int:
        """End the worker and whatever it started, wait for it, and return its exit status."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._input.close()
        self._output.close()
        return status
