"""What one piece of work in the jail may use, and the limits by which Unix holds it to that."""

import resource
from pathlib import Path

from pydantic import Field

from chiasma.core.spec import Spec
from chiasma.evaluate.jail.system import LINUX

STATM = Path("/proc/self/statm")


class Limits(Spec):
    """What one piece of work in the jail may use.

    Attributes:
        wall_seconds: From the request to the answer; the supervisor kills what takes longer. None for no limit: then
            somebody must be able to end it.
        cpu_seconds: Processor time; None for that of the wall.
        memory_bytes: Beyond what the warm process and the inputs and outputs take already.
        answer_bytes: Length of its answer as JSON.
    """

    wall_seconds: float | None = Field(default=60.0, gt=0)
    cpu_seconds: float | None = Field(default=None, gt=0)
    memory_bytes: int = Field(default=2 * 2**30, ge=2**20)
    answer_bytes: int = Field(default=2**20, ge=2**10)


def restrict(limits: Limits) -> None:
    """Limit this process for good: time, memory, no file it could write, no process, no core dump."""
    seconds = limits.cpu_seconds or limits.wall_seconds
    ceilings = {
        resource.RLIMIT_CPU: resource.RLIM_INFINITY if seconds is None else int(seconds) + 2,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if LINUX:  # Elsewhere the address space is not limited by what it is asked to be.
        ceilings[resource.RLIMIT_AS] = mapped_bytes() + limits.memory_bytes
        ceilings[resource.RLIMIT_MSGQUEUE] = 0
    for what, ceiling in ceilings.items():
        resource.setrlimit(what, (ceiling, ceiling))


def open_nothing_more(descriptors: int) -> None:
    """Stop every new file and socket for good.

    Args:
        descriptors: How many are open; there will never be more.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


def mapped_bytes() -> int:
    """Return the size of this process's address space."""
    return int(STATM.read_text().split()[0]) * resource.getpagesize()
