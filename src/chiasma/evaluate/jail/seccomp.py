"""Seccomp: a list of the system calls that computing needs; every other one is refused with "permission denied".

What is allowed moves memory, waits, tells the time, and reads and writes descriptors that are already open. Executable
memory stays allowed: oneDNN compiles its kernels while it runs, and switching it off is slower and changes the bits.
"""

import ctypes
import errno
import struct

from chiasma.evaluate.jail.system import MACHINE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, prctl

# By name: the numbers on x86_64 and on aarch64; None where there is no such call.
ALLOWED: dict[str, tuple[int, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "set_robust_list": (273, 99),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
# AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64, and the column of the table.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Numbers from here on are the x32 interface of x86_64: the same calls by other numbers.
X32 = 0x40000000

LOAD = 0x20
EQUAL = 0x15
AT_LEAST = 0x35
ANSWER = 0x06
KILL = 0x80000000
REFUSE = 0x00050000 | errno.EPERM
ALLOW = 0x7FFF0000
NUMBER_AT, MACHINE_AT = 0, 4
FILTER_MODE = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def is_known(machine: str = MACHINE) -> bool:
    """Return whether the numbers of a machine's system calls are known here."""
    return machine in MACHINES


def program(machine: str = MACHINE) -> bytes:
    """Return the filter as classic BPF: kill what speaks for another machine, allow what is listed, refuse the rest.

    Raises:
        OSError: The numbers of this machine's system calls are not known.
    """
    if not is_known(machine):
        raise OSError(errno.ENOSYS, f"the system calls of {machine} are not known; known: {', '.join(MACHINES)}")
    audit, column = MACHINES[machine]
    numbers = sorted(number for both in ALLOWED.values() if (number := both[column]) is not None)
    lines = [(LOAD, 0, 0, MACHINE_AT), (EQUAL, 1, 0, audit), (ANSWER, 0, 0, KILL), (LOAD, 0, 0, NUMBER_AT)]
    lines += [(AT_LEAST, 0, 1, X32), (ANSWER, 0, 0, KILL)]
    # A jump counts the lines that are left out: past the other comparisons and the refusal.
    lines += [(EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    lines += [(ANSWER, 0, 0, REFUSE), (ANSWER, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def restrict() -> None:
    """Refuse every system call of this process that is not on the list, for good.

    Raises:
        OSError: This kernel has no seccomp, or the machine is not known.
    """
    code = program()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(_Program(len(code) // 8, code)))
