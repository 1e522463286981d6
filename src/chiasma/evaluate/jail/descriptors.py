"""The descriptors a process has: three that lead nowhere, and no others."""

import os

STANDARD = 3


def close_all(*, but: int | None = None) -> None:
    """Lead input, output and errors to nowhere and close every other descriptor, or every other one but one."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(STANDARD):
        os.dup2(nowhere, standard)
    if but is None:
        os.closerange(STANDARD, _most())
    else:
        os.closerange(STANDARD, but)
        os.closerange(but + 1, _most())


def still_open() -> list[int]:
    """Return the descriptors beyond the standard ones that are open, by asking for each."""
    return [number for number in range(STANDARD, min(_most(), 1024)) if _is_open(number)]


def _is_open(number: int) -> bool:
    try:
        os.lseek(number, 0, os.SEEK_CUR)
    except OSError as error:
        return error.errno != 9
    return True


def _most() -> int:
    return max(os.sysconf("SC_OPEN_MAX"), 1024)
