"""The driver's end of one worker process."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from chiasma.evaluate.driver_end import DriverEnd, worker_environment


class WorkerProcess(DriverEnd):
    """A child in a session of its own, so that Ctrl-C in the terminal does not reach it.

    Args:
        command: Program and arguments; ``--driver PID`` is appended.
        threads: Threads that its libraries may use.
        log: Open file that receives everything it prints.
    """

    def __init__(self, command: Sequence[str], *, threads: int, log: IO[bytes]) -> None:
        super().__init__()
        self._process = subprocess.Popen(
            [*command, "--driver", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            env=os.environ | worker_environment(threads),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._rest = b""

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor on which answers arrive, for a selector."""
        return self._output.fileno()

    def send(self, job: bytes) -> None:
        """Send a job as JSON; a worker that is dead already is noticed by the next read."""
        with suppress(BrokenPipeError):
            self._input.write(job + b"\n")

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

    def kill(self) -> str:
        """End the worker and whatever it started, wait for it, and return how it ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._input.close()
        self._output.close()
        return f"by signal {-status}" if status < 0 else f"with status {status}"
