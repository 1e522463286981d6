"""The warm process: it imports everything once, keeps to one thread, and has one child for each request.

A child is forked before there is a request for it, and made ready while another one works or nobody waits. It gets
one order, and is never used again.

Started as ``python -m chiasma.evaluate.jail.warm --line N --supervisor PID`` in an environment built from nothing: a
child can read what its parent was started with, even after ``os.environ`` is emptied. It knows no secret and runs no
code of a candidate itself.
"""

import argparse
import gc
import os
import resource
import select
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from chiasma.evaluate.jail import child, wire
from chiasma.evaluate.jail.identity import die_with
from chiasma.evaluate.jail.system import LINUX, PR_SET_PDEATHSIG, prctl
from chiasma.evaluate.jail.touched import Range, pages_touched_by

LOOK_SECONDS = 0.01
AWAY_SECONDS = 0.5


def main() -> None:
    """Answer requests until the supervisor is gone."""
    parser = argparse.ArgumentParser(description="Fork one locked-down child for each request.")
    parser.add_argument("--line", type=int, required=True, help="descriptor of the line to the supervisor")
    parser.add_argument("--supervisor", type=int, required=True, help="its process id")
    parser.add_argument("--warm", required=True, help="what to call before the first request")
    arguments = parser.parse_args()
    # While everything is imported nobody watches the line. Later the thread that started us may end before its process.
    die_with(arguments.supervisor)
    line = socket.socket(fileno=arguments.line)
    told = child.find(arguments.warm)({}, {}, {})
    if LINUX:
        prctl(PR_SET_PDEATHSIG, 0)
    threads = threads_of_this_process()
    gc.collect()
    gc.freeze()
    rehearsal = child.find(told["rehearsal"]) if "rehearsal" in told else None
    pages = [] if rehearsal is None else pages_touched_by(lambda: rehearsal({}, {}, {}))
    try:
        wire.send(line, {"ready": os.getpid(), "threads": threads})
        serve(line, Watch(line, arguments.supervisor), pages)
    except (AbandonedError, OSError):
        os._exit(0)


def threads_of_this_process() -> int:
    """Return how many threads there are: a child of a process with more may wait for ever for one that it lacks."""
    return len(os.listdir("/proc/self/task")) if LINUX else threading.active_count()


class AbandonedError(Exception):
    """The supervisor is gone."""


class Watch:
    """Waits for the line, for a child, and for the end of the supervisor.

    Args:
        line: To the supervisor.
        supervisor: Its process id.
    """

    def __init__(self, line: socket.socket, supervisor: int) -> None:
        self.supervisor = supervisor
        self._line = line.fileno()
        self._poll = select.poll()
        self._poll.register(self._line, select.POLLIN)
        # A fork of the supervisor may hold our line open after its end.
        self._end = os.pidfd_open(supervisor) if LINUX else None
        if self._end is not None:
            self._poll.register(self._end, select.POLLIN)

    def wait(self, end_of_child: int | None = None, *, has_child: bool = False) -> bool:
        """Return whether there is a message.

        Raises:
            AbandonedError: The supervisor is gone.
        """
        if end_of_child is not None:
            self._poll.register(end_of_child, select.POLLIN)
        blind = self._end is None or (has_child and end_of_child is None)
        seconds = LOOK_SECONDS if has_child else AWAY_SECONDS
        ready = {number for number, _ in self._poll.poll(seconds * 1000 if blind else None)}
        if end_of_child is not None:
            self._poll.unregister(end_of_child)
        if self._end in ready or os.getppid() != self.supervisor:
            raise AbandonedError
        return self._line in ready


class Spare:
    """A child that waits for its order.

    Args:
        pages: What it will write to.
    """

    def __init__(self, pages: Sequence[Range]) -> None:
        self._line, theirs = socket.socketpair()
        warm = os.getpid()
        with warnings.catch_warnings(), theirs:
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
            if self.pid == 0:
                child.stand_by(theirs, pages, parent=warm)

    def take(self, order: Mapping[str, Any], numbers: Sequence[int]) -> bool:
        """Give it its order; return whether it lived to get it."""
        with suppress(OSError):
            wire.send(self._line, order, numbers)
            if self._line.recv(len(child.TAKEN)):
                self._line.close()
                return True
        self.end()
        return False

    def end(self) -> None:
        """End it without an order."""
        self._line.close()
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def serve(line: socket.socket, watch: Watch, pages: Sequence[Range]) -> None:
    """Have a child carry out each request, say who it is, and what it came to when it has ended."""
    spare = Spare(pages)
    while True:
        if not watch.wait():
            continue
        message = wire.receive(line)
        if message is None:
            raise AbandonedError
        order, numbers = message
        if "entry" not in order:
            continue
        try:
            pid = _given(order, numbers, spare, pages)
        finally:
            for number in numbers:
                os.close(number)
        handle = announce(line, pid)
        spare = Spare(pages)
        attend(line, watch, pid=pid, handle=handle)


def _given(order: Mapping[str, Any], numbers: Sequence[int], spare: Spare, pages: Sequence[Range]) -> int:
    """Return the process id of the child that has the order: the one that waits, unless it died or knows too little."""
    known = order["entry"].partition(":")[0] in sys.modules
    if not known:
        child.find(order["entry"])
        spare.end()
    elif spare.take(order, numbers):
        return spare.pid
    other = Spare(pages)
    other.take(order, numbers)
    return other.pid


def announce(line: socket.socket, pid: int) -> int | None:
    """Tell the supervisor of a child, with its handle where there are such; return the handle."""
    handle = os.pidfd_open(pid) if LINUX else None
    wire.send(line, {"started": pid}, [] if handle is None else [handle])
    return handle


def attend(line: socket.socket, watch: Watch, *, pid: int, handle: int | None) -> None:
    """Kill a child when told to or when nobody is interested any more, reap it, and tell the supervisor of its end."""
    ended, status, used = 0, 0, resource.getrusage(resource.RUSAGE_SELF)
    try:
        while not ended:
            if watch.wait(handle, has_child=True):
                if wire.receive(line) is None:
                    raise AbandonedError
                os.kill(pid, signal.SIGKILL)
            ended, status, used = os.wait4(pid, os.WNOHANG)
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
        if handle is not None:
            os.close(handle)
    peak = used.ru_maxrss * (1024 if LINUX else 1)
    wire.send(line, {"ended": status, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": peak})


if __name__ == "__main__":
    main()
