"""The supervisor's side of the jail: it keeps a warm process, owns the deadline, and believes nothing it is told."""

import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from chiasma.core.errors import JailError
from chiasma.core.spec import canonical_json
from chiasma.evaluate.jail import wire
from chiasma.evaluate.jail.child import ANSWER, REQUEST, STOP, Order
from chiasma.evaluate.jail.level import Level, measured
from chiasma.evaluate.jail.limits import Limits
from chiasma.evaluate.jail.lockdown import Layers
from chiasma.evaluate.jail.regions import HEADER, Region, SharedArray, unfilled
from chiasma.evaluate.jail.said import plain
from chiasma.evaluate.jail.verdict import Refusal, Stopping, judged

START_SECONDS = 120.0
REAP_SECONDS = 1.0
LOOK_SECONDS = 0.1
WARM_UP = "chiasma.evaluate.jail.warming:warm_up"
# Nothing of the supervisor's own: a child can read it. One thread, and hashes that do not differ between trials.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    # Some versions of pyarrow begin a thread as soon as they are imported.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "TMPDIR": "/nonexistent",
}


@dataclass(frozen=True)
class Ended:
    """What a piece of work came to. All of it was written by a child and is to be checked as such.

    Attributes:
        answer: Plain JSON; None where there is a refusal.
        outputs: The arrays it was to fill, whatever it filled them with.
        refusal: None where there is an answer.
        seconds: By the supervisor's clock, from the request on.
        cpu_seconds: Processor time by the kernel's account.
        peak_bytes: Largest resident memory by the kernel's account.
        level: Which guarantees held.
    """

    answer: Mapping[str, Any] | None
    outputs: Mapping[str, np.ndarray]
    refusal: Refusal | None
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    level: Level


@dataclass
class _Child:
    """What is known of a child: how it ended, whether its time was over, and since when it was asked to stop."""

    ended: dict[str, Any] | None = None
    late: bool = False
    asked: bool = False
    pid: int = 0
    handles: list[int] = field(default_factory=list[int])


class Jail:
    """Runs functions on arrays where they can do nothing but compute; a context manager that leaves nothing running.

    The warm process starts at the first request and again when it has died. One request at a time: use one jail a
    worker. Threads may share it; they wait for each other.

    Args:
        layers: Which layers of the wall stand; all of them outside of tests.
        accept_lesser: Run although a guarantee does not hold on this machine. Each answer says which.
        warm_up: Called in the warm process before the first request.
    """

    def __init__(self, *, layers: Layers | None = None, accept_lesser: bool = False, warm_up: str = WARM_UP) -> None:
        self.layers = layers or Layers()
        self.accept_lesser = accept_lesser
        self._warm_up = warm_up
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._log: IO[bytes] | None = None
        self._owner = os.getpid()
        self._level: Level | None = None

    @property
    def level(self) -> Level:
        """Return which guarantees hold here, tried once; starts the warm process.

        Raises:
            JailError: The warm process does not start.
        """
        with self._lock:
            if self._level is None:
                self._level = measured(self._attempt)
            return self._level

    @property
    def warm_pid(self) -> int | None:
        """Return the process id of the warm process, or None where there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the warm process and try the guarantees now, not at the first request; errors as in :meth:`run`."""
        missing = self.level.missing
        if missing and not self.accept_lesser:
            raise JailError(
                f"The jail for generated code cannot be closed on this machine: {', '.join(missing)} "
                "does not hold (chiasma doctor says more). Accept what is left with --set "
                "evaluate.accept_lesser_jail=true, or trust the source."
            )

    def run(
        self,
        entry: str,
        request: Mapping[str, Any],
        *,
        inputs: Mapping[str, np.ndarray | SharedArray] | None = None,
        outputs: Mapping[str, Region] | None = None,
        limits: Limits | None = None,
        stopping: Stopping | None = None,
    ) -> Ended:
        """Run a function in a locked-down child and return what it came to, in time whatever it does.

        Args:
            entry: The function, as ``package.module:function``; it gets the request, the inputs and the outputs, and
                returns plain JSON.
            request: Plain JSON.
            inputs: Arrays that the child gets private copies of, without copying what it does not change.
            outputs: What the arrays look like that it is to fill.
            limits: What it may use.
            stopping: Who may end it early. The function then finds an output ``stop`` of one byte, which is not zero
                once it should end.

        Raises:
            JailError: A guarantee does not hold and the lesser level was not accepted, or the warm process does not
                start; not the fault of what was to run.
        """
        with self._lock:
            self.start()
            return self._attempt(entry, request, inputs=inputs, outputs=outputs, limits=limits, stopping=stopping)

    def close(self) -> None:
        """End the warm process and whatever it runs. Harmless when repeated; the next request starts another."""
        with self._lock:
            if self._line is not None:
                self._line.close()
            if self._process is not None and self._owner == os.getpid():
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            if self._log is not None:
                self._log.close()
            self._process, self._line, self._log = None, None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attempt(
        self,
        entry: str,
        request: Mapping[str, Any],
        *,
        inputs: Mapping[str, np.ndarray | SharedArray] | None = None,
        outputs: Mapping[str, Region] | None = None,
        limits: Limits | None = None,
        stopping: Stopping | None = None,
    ) -> Ended:
        allowed = limits or Limits()
        with ExitStack() as stack:
            text = np.frombuffer(canonical_json(request).encode(), np.uint8)
            given = {REQUEST: _shared(text, stack)}
            given |= {name: _shared(array, stack) for name, array in (inputs or {}).items()}
            wanted = {ANSWER: Region.of("u1", HEADER.size + allowed.answer_bytes), **(outputs or {})}
            if stopping is not None:
                wanted[STOP] = Region.of("u1", 1)
            filled = {name: unfilled(region) for name, region in wanted.items()}
            for shared in filled.values():
                stack.callback(shared.close)
            order = Order(
                entry=entry,
                inputs={name: shared.region for name, shared in given.items()},
                outputs=wanted,
                limits=allowed,
                layers=asdict(self.layers),
            )
            numbers = [shared.descriptor for shared in (*given.values(), *filled.values())]
            started = time.monotonic()
            child = self._carried_out(order, numbers, stopping, filled.get(STOP))
            seconds = time.monotonic() - started
            # The child is dead, so that nobody changes them any more.
            results = {name: shared.array for name, shared in filled.items() if name != STOP}
        asked = stopping if child.asked else None
        answer, refusal = judged(child.ended, results.pop(ANSWER), allowed, late=child.late, asked=asked)
        ended = child.ended or {}
        return Ended(
            answer=answer,
            outputs=results,
            refusal=refusal,
            seconds=seconds,
            cpu_seconds=float(ended.get("cpu_seconds", 0.0)),
            peak_bytes=int(ended.get("peak_bytes", 0)),
            level=self._level or Level(),
        )

    def _carried_out(
        self, order: Order, descriptors: list[int], stopping: Stopping | None, flag: SharedArray | None
    ) -> _Child:
        """Have a child do it; once more where the warm process dies meanwhile, for which nobody in the jail is able."""
        child = _Child()
        for _ in range(2):
            line = self._warm_line()
            child = _Child()
            try:
                wire.send(line, order.to_dict(), descriptors)
                deadline = time.monotonic() + (order.limits.wall_seconds or math.inf)
                self._follow(line, child, deadline, stopping, flag)
            except OSError:
                self.close()
            except BaseException:
                # Ctrl-C in a library: nothing may go on, and the next request must not hear this one's end.
                self.close()
                raise
            finally:
                for handle in child.handles:
                    os.close(handle)
            if child.ended is not None or child.late:
                break
        return child

    def _follow(
        self,
        line: socket.socket,
        child: _Child,
        deadline: float,
        stopping: Stopping | None,
        flag: SharedArray | None,
    ) -> None:
        """Wait for a child's end; ask it to stop where that is wanted, and kill it when its time is over."""
        while child.ended is None:
            if stopping is not None and flag is not None and not child.asked and stopping.asked():
                child.asked, flag.array[0] = True, 1
                deadline = min(deadline, time.monotonic() + stopping.grace_seconds)
            left = deadline - time.monotonic()
            if _has_message(line, left if stopping is None else min(left, LOOK_SECONDS)):
                received = wire.receive(line)
                if received is None:
                    raise ConnectionResetError("the warm process is gone")
                message, handles = received
                child.handles += handles
                child.pid = message.get("started", child.pid)
                child.ended = message if "ended" in message else None
            elif time.monotonic() < deadline:
                continue
            elif child.late:
                # Not even killing helped, so that the warm process itself hangs or is stopped.
                self.close()
                return
            else:
                child.late = True
                deadline = time.monotonic() + REAP_SECONDS
                _kill(child, line)

    def _warm_line(self) -> socket.socket:
        """Return the line to a warm process that lives."""
        if self._owner != os.getpid():
            # A fork of the process that started it: that one keeps it.
            self._process, self._line, self._log, self._owner = None, None, None, os.getpid()
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._line is None:
            self._start()
        assert self._line is not None
        return self._line

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process that writes to it.
        command = [sys.executable, "-P", "-s", "-m", "chiasma.evaluate.jail.warm"]
        with theirs:
            self._process = subprocess.Popen(
                [*command, "--line", str(theirs.fileno()), "--supervisor", str(os.getpid()), "--warm", self._warm_up],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
                cwd="/",
                start_new_session=True,
            )
        self._line = ours
        ready = None
        with suppress(OSError):
            ready = wire.receive(ours) if _has_message(ours, START_SECONDS) else None
        if ready is None or ready[0].get("threads") != 1:
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip().splitlines()
            self.close()
            found = (
                f"it has {ready[0].get('threads')} threads" if ready else plain(said[-1] if said else "it was silent")
            )
            raise JailError(f"The warm process of the jail did not start with one thread: {found}.")


def _shared(array: np.ndarray | SharedArray, stack: ExitStack) -> SharedArray:
    if isinstance(array, SharedArray):
        return array
    shared = SharedArray.holding(array)
    stack.callback(shared.close)
    return shared


def _has_message(line: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return bool(poll.poll(None if math.isinf(seconds) else max(0.0, seconds) * 1000))


def _kill(child: _Child, line: socket.socket) -> None:
    """Kill a child: directly where its handle is known, which no other process can take; else through its parent."""
    with suppress(OSError):
        if child.handles:
            signal.pidfd_send_signal(child.handles[0], signal.SIGKILL)
        else:
            wire.send(line, {"kill": True})
