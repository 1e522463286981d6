"""Which pages a child will use, and how it gets them before anybody waits for it.

After a fork every page that is written to must be copied first, and every page of a library must be found again. A
small training writes to some four thousand, mostly counts of references, and looks at many of torch: that takes longer
than the fork and the wall together. A rehearsal in a child of its own finds them, by what Linux says of the pages of a
process; elsewhere nothing is known, and nothing is done ahead.
"""

import ctypes
import json
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np

POPULATE_READ, POPULATE_WRITE = 22, 23
NO_MEMORY = ("[stack]", "[vvar]", "[vdso]", "[vsyscall]")
ENTRY_BYTES = 8
PRESENT, OF_FILE, EXCLUSIVE = np.uint64(1 << 63), np.uint64(1 << 61), np.uint64(1 << 56)
CHUNK = 64
PAGE = mmap.PAGESIZE

Range = tuple[int, int, int]
"""Address, length, and what Linux is advised to do."""
_LIBC = ctypes.CDLL(None, use_errno=True)


def pages_touched_by(work: Callable[[], object]) -> list[Range]:
    """Return the pages that some work uses, by doing it in a child; nothing where Linux is silent."""
    if sys.platform != "linux":
        return []
    ours, theirs = os.pipe()
    known = list(_mappings())
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            work()
            with os.fdopen(theirs, "wb") as pipe:
                pipe.write(json.dumps(list(_used(known))).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return [(start, length, advice) for start, length, advice in json.loads(said or b"[]")]


def make_own(ranges: Sequence[Range], *, until: Callable[[], bool]) -> None:
    """Get pages into this process without changing them, and stop where there is something better to do.

    Args:
        ranges: What :func:`pages_touched_by` returned, in the process that was asked or a child of it.
        until: Whether to stop; asked after every few ranges.
    """
    for first in range(0, len(ranges), CHUNK):
        for start, length, advice in ranges[first : first + CHUNK]:
            # A kernel that cannot do it leaves the page to its first use, as without us.
            _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)
        if until():
            return


def _mappings() -> Iterator[tuple[int, int, bool]]:
    """Yield start, length and whether it can be written to, of each private mapping of this process but the stack."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            place, rights, *rest = line.split()
            if rights.startswith("r") and rights.endswith("p") and rest[-1] not in NO_MEMORY:
                start, end = (int(part, 16) for part in place.split("-"))
                yield start, end - start, rights[1] == "w"


def _used(mappings: Sequence[tuple[int, int, bool]]) -> Iterator[Range]:
    """Yield the pages that only this process has, and those of files that it has looked at."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pages:
        for start, length, writable in mappings:
            pages.seek(start // PAGE * ENTRY_BYTES)
            entries = np.frombuffer(pages.read(length // PAGE * ENTRY_BYTES), np.uint64)
            wanted = PRESENT | EXCLUSIVE if writable else PRESENT | OF_FILE
            used = (entries & wanted) == wanted
            edges = np.flatnonzero(np.diff(np.concatenate([[0], used.astype(np.int8), [0]]))).tolist()
            for begin, end in zip(edges[::2], edges[1::2], strict=True):
                advice = POPULATE_WRITE if writable else POPULATE_READ
                yield start + begin * PAGE, (end - begin) * PAGE, advice
