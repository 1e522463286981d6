"""Locks between processes, which the kernel frees however a process ends."""

import fcntl
import os
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from chiasma.core.errors import RunBusyError
from chiasma.core.files import storage_errors


class RunLock:
    """An exclusive lock on a file, held until :meth:`release` or the end of the process.

    Args:
        path: The lock file; made when missing, and holding the pid of its last owner.

    Raises:
        RunBusyError: Another process holds the lock; names its pid.
        StorageError: The file cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunBusyError(
                f"Run {path.parent.name}: another process (pid {_owner(path)}) is writing to it. Wait until it ends, "
                f"or stop it; reading is possible meanwhile (chiasma show {path.parent.name})."
            ) from None
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Let the next process write; may be called twice."""
        if self._descriptor >= 0:
            # Closing alone would not do: a child that was forked a moment ago may still hold the same open file.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.abandon()

    def abandon(self) -> None:
        """Close the file without unlocking it, as a forked child must: the lock is its parent's."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        _held.discard(self)


@contextmanager
def queued(path: Path) -> Generator[None]:
    """Run the block while no other process runs one behind the same lock file; waits its turn.

    Raises:
        StorageError: The file cannot be written to.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether some process holds the lock file at ``path`` right now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _owner(path: Path) -> str:
    return path.read_text().strip() or "unknown"


# A forked child shares the open file and would keep the lock after its parent's death.
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [lock.abandon() for lock in list(_held)])
