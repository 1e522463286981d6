"""Who a process is, and with whom it dies."""

import ctypes
import os
import signal

from chiasma.evaluate.jail.system import LINUX, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_PDEATHSIG, prctl

# The user "nobody", who owns no file, on every Linux and BSD that we know.
NOBODY = 65534


def drop_privileges() -> None:
    """Become nobody where this process is root, and let nobody look into its memory.

    Raises:
        OSError: Root without the right to become somebody else, as in some containers.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if LINUX:
        prctl(PR_SET_DUMPABLE, 0)


def call_oneself(name: str) -> None:
    """Show a process to its user under a name of at most 15 letters, where there is a way."""
    if LINUX:
        prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()))


def die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends; to be called last, since a change of user undoes it.

    Args:
        parent: Whose child this process is, if it still lives.
    """
    if LINUX:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It ended before we asked.
        os._exit(1)
