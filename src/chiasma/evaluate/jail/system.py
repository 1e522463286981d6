"""The few system calls for which Python has no function, made directly, on the two machines Linux mostly runs on."""

import ctypes
import os
import platform
import sys
from typing import Any

LINUX = sys.platform == "linux"
MACHINE = platform.machine()
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38

_LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, first: Any = 0, second: Any = 0) -> None:
    """Change a property of this process.

    Raises:
        OSError: Linux refuses.
    """
    zero = ctypes.c_ulong(0)
    _checked(_LIBC.prctl(ctypes.c_int(option), _word(first), _word(second), zero, zero), f"prctl({option})")


def call(number: int, *arguments: Any) -> int:
    """Make a system call by its number and return what it returns.

    Raises:
        OSError: Linux refuses.
    """
    return _checked(_LIBC.syscall(ctypes.c_long(number), *map(_word, arguments)), f"system call {number}")


def _word(value: Any) -> Any:
    return ctypes.c_ulong(value) if isinstance(value, int) else value


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
