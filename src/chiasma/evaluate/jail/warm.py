"""The warm process: it imports everything once, keeps to one thread, and forks one child a request.

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
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from chiasma.evaluate.jail import child, wire
from chiasma.evaluate.jail.identity import die_with
from chiasma.evaluate.jail.system import LINUX, PR_SET_PDEATHSIG, prctl

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
    child.find(arguments.warm)({}, {}, {})
    if LINUX:
        prctl(PR_SET_PDEATHSIG, 0)
    threads = threads_of_this_process()
    gc.collect()
    gc.freeze()
    try:
        wire.send(line, {"ready": os.getpid(), "threads": threads})
        serve(line, Watch(line, arguments.supervisor))
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


def serve(line: socket.socket, watch: Watch) -> None:
    """Fork a child for each request, say who it is, and what it came to when it has ended."""
    while True:
        if not watch.wait():
            continue
        message = wire.receive(line)
        if message is None:
            raise AbandonedError
        if "entry" in message[0]:
            attend(line, watch, pid=fork(*message))


def fork(order: dict[str, Any], descriptors: Sequence[int]) -> int:
    """Return the process id of a child that carries out an order."""
    parsed = child.Order.from_dict(order)
    entry = child.find(parsed.entry)
    warm = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        child.run(parsed, descriptors, entry=entry, parent=warm)
    for number in descriptors:
        os.close(number)
    return pid


def attend(line: socket.socket, watch: Watch, *, pid: int) -> None:
    """Tell the supervisor of a child, kill it when told to or when nobody is interested any more, and reap it."""
    handle = os.pidfd_open(pid) if LINUX else None
    ended, status, used = 0, 0, resource.getrusage(resource.RUSAGE_SELF)
    try:
        wire.send(line, {"started": pid}, [] if handle is None else [handle])
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
