"""Landlock: Linux's rules by which an ordinary process gives up files and TCP; here it gives up all of them.

It needs no privilege and no namespace. What it does not stop (stat, chmod, UDP, abstract sockets before ABI 6, fork,
memfd) is the matter of seccomp. It is probed by its own system call: what securityfs lists may not be in force.
"""

import ctypes
import errno
import os

from chiasma.evaluate.jail.system import LINUX, PR_SET_NO_NEW_PRIVS, call, prctl

CREATE_RULESET = 444
RESTRICT_SELF = 446
VERSION = 1
# Each version of the interface knows more that can be denied.
FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
TCP = {4: 0b11}
SCOPES = {6: 0b11}


class Denied(ctypes.Structure):
    """``struct landlock_ruleset_attr``: what is denied unless a rule allows it, and there are no rules."""

    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


def version() -> int:
    """Return the version of Landlock's interface, 0 where this kernel has none or it is switched off."""
    if not LINUX:
        return 0
    try:
        return call(CREATE_RULESET, None, 0, VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def restrict() -> None:
    """Deny this process every file, every TCP port, and signals and abstract sockets of others, for good.

    Raises:
        OSError: This kernel has no Landlock.
    """
    known = version()
    if not known:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock, or it is switched off")
    denied = Denied(_newest(FILES, known), _newest(TCP, known), _newest(SCOPES, known))
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    ruleset = call(CREATE_RULESET, ctypes.byref(denied), size, 0)
    try:
        call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _newest(since: dict[int, int], known: int) -> int:
    return max((bits for version, bits in since.items() if version <= known), default=0)
