"""Which guarantees hold on this machine: each is tried inside a child that is locked down as every other one."""

import errno
import mmap
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.spec import Spec
from chiasma.evaluate.jail import descriptors, lockdown
from chiasma.evaluate.jail.limits import Limits
from chiasma.evaluate.jail.system import LINUX, call

GUARANTEES: Mapping[str, str] = {
    "files": "no file can be read, listed, made, changed or removed",
    "network": "no socket of any kind can be made",
    "processes": "no process or thread can be started, no program run",
    "signals": "no other process can be signalled or looked into",
    "descriptors": "nothing that the supervisor had open is open",
    "identity": "it is not root",
    "memory": "memory beyond the limit is refused",
    "environment": "it holds nothing of the supervisor's environment",
    "kernel": "system calls beyond a list are refused",
    "layers": "each layer of the wall stands, also where another one alone would do",
    "deadline": "it is killed when its time is over, whatever it does",
}
SECRET = "CHIASMA_JAIL_CANARY"
TRY_SECONDS = 0.25
FREE_SECONDS = 1.0
TRY_BYTES = 64 * 2**20


class Level(Spec):
    """Which guarantees were seen to hold; nothing holds before it was tried.

    Attributes:
        holds: By the guarantee's name.
    """

    holds: Mapping[str, bool] = {}

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the guarantees that do not hold."""
        return tuple(name for name in GUARANTEES if not self.holds.get(name, False))

    @property
    def is_full(self) -> bool:
        """Return whether all hold."""
        return not self.missing

    @property
    def words(self) -> str:
        """Return the level as a few words for a record."""
        return "full" if self.is_full else f"without {', '.join(self.missing)}"


def measured(run: Callable[..., Any]) -> Level:
    """Return what holds.

    Args:
        run: Runs an entry in a child, as :meth:`chiasma.evaluate.jail.jail.Jail.run` does.
    """
    secret = os.environ.get(SECRET)
    os.environ[SECRET] = f"{os.getpid()}-{time.monotonic_ns()}"
    try:
        request = {"secret": os.environ[SECRET]}
        ended = run(f"{__name__}:attempts", request, limits=Limits(wall_seconds=30.0, memory_bytes=TRY_BYTES))
    finally:
        if secret is None:
            del os.environ[SECRET]
        else:
            os.environ[SECRET] = secret
    found = {name: ended.answer is not None and ended.answer.get(name) is True for name in GUARANTEES}
    endless = run(f"{__name__}:never_end", {}, limits=Limits(wall_seconds=TRY_SECONDS))
    killed = endless.refusal is not None and endless.refusal.kind == "deadline"
    return Level(holds={**found, "deadline": killed and endless.seconds < TRY_SECONDS + FREE_SECONDS})


def attempts(
    request: Mapping[str, Any], inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> Mapping[str, bool]:
    """Try everything that a child must not be able to do; return by guarantee whether all of it failed."""
    del inputs, outputs
    tries: dict[str, list[Callable[[], Any]]] = {
        "files": [
            lambda: os.open("/etc/passwd", os.O_RDONLY),
            lambda: os.listdir("/"),
            lambda: os.stat("/"),
            lambda: os.open(f"/tmp/chiasma-{os.getpid()}", os.O_CREAT | os.O_WRONLY),
            lambda: os.mkdir(f"/tmp/chiasma-{os.getpid()}"),
            lambda: os.chmod("/tmp", 0o777),
            lambda: os.rmdir("/tmp/chiasma-nothing"),
        ],
        "network": [
            lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),
            lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
            socket.socketpair,
        ],
        "processes": [_fork, lambda: os.execv("/bin/true", ["/bin/true"]), _thread],
        "signals": [lambda: os.kill(os.getppid(), 0), lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 0)],
        "memory": [lambda: mmap.mmap(-1, 2 * TRY_BYTES)],
    }
    found = {name: all(_refused(attempt) for attempt in those) for name, those in tries.items()}
    found["descriptors"] = not descriptors.still_open()
    found["identity"] = os.geteuid() != 0 and os.getuid() != 0
    found["environment"] = str(request["secret"]) not in os.environ.values()
    found["layers"] = not lockdown.fallen
    found["kernel"] = LINUX and all(_refused(attempt) for attempt in _system_calls())
    return found


def never_end(
    request: Mapping[str, Any], inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> Mapping[str, Any]:
    """Wait for ever and swallow whatever is raised."""
    del request, inputs, outputs
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001 - it is what it tries.
            continue


def nothing(
    request: Mapping[str, Any], inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> Mapping[str, Any]:
    """Answer at once: what a round trip costs."""
    del request, inputs, outputs
    return {}


def _system_calls() -> list[Callable[[], Any]]:
    """Return calls that work by number on x86_64 and aarch64 alike: io_uring, BPF, memory files, keys, user faults."""
    uring_setup, pidfd_getfd = 425, 438
    shared = [lambda: call(uring_setup, 1, None), lambda: call(pidfd_getfd, 0, 0, 0)]
    return [*shared, lambda: os.memfd_create("x"), lambda: os.pidfd_open(os.getppid()), lambda: Path("/proc").stat()]


def _refused(attempt: Callable[[], Any]) -> bool:
    """Return whether an attempt failed for want of permission or of room, and not for another reason."""
    try:
        attempt()
    except (PermissionError, MemoryError, BlockingIOError):
        return True
    except RuntimeError as error:
        return "can't start new thread" in str(error)
    except OSError as error:
        return error.errno in (errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENOMEM)
    return False


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _thread() -> None:
    import _thread

    _thread.start_new_thread(time.sleep, (0.0,))
