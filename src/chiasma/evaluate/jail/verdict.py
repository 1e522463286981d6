"""What a piece of work came to, from how its process ended and what it left: an answer, or why there is none."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from chiasma.evaluate.jail.limits import Limits
from chiasma.evaluate.jail.regions import read_answer
from chiasma.evaluate.jail.said import plain

RefusalKind = Literal["deadline", "stopped", "memory", "error", "crash", "silent", "malformed"]


@dataclass(frozen=True)
class Refusal:
    """Why a piece of work has no answer that counts; ``reason`` quotes untrusted text, capped and plain."""

    kind: RefusalKind
    reason: str


@dataclass(frozen=True)
class Stopping:
    """How a piece of work is ended before its time: it is asked to, and killed if it does not.

    Attributes:
        asked: Whether it should end; called several times a second.
        grace_seconds: How long it may take to end by itself.
    """

    asked: Callable[[], bool]
    grace_seconds: float = 30.0


def judged(
    ended: Mapping[str, Any] | None, place: np.ndarray, allowed: Limits, *, late: bool, asked: Stopping | None
) -> tuple[Mapping[str, Any] | None, Refusal | None]:
    """Return the answer or the refusal: what counts is a complete answer in time, never an exit status.

    Args:
        ended: What the warm process said of the child's end; None where it ended itself.
        place: Where the answer belongs.
        allowed: What the child might use.
        late: Whether it was killed because its time was over.
        asked: How it was asked to stop; None where it was not.
    """
    if late and asked is not None:
        return None, Refusal("stopped", f"asked to stop, and killed {asked.grace_seconds:g} s later")
    if late:
        return None, Refusal("deadline", f"killed after {allowed.wall_seconds or 0.0:.3g} s")
    if ended is None:
        return None, Refusal("crash", "the jail's own process ended twice while it ran")
    status = int(ended["ended"])
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if allowed.cpu_seconds and float(ended["cpu_seconds"]) >= allowed.cpu_seconds:
            return None, Refusal("deadline", f"used more than {allowed.cpu_seconds:g} s of processor time")
        return None, Refusal("crash", f"its process ended by signal {signal.Signals(number).name}")
    try:
        said = read_answer(place)
    except ValueError as error:
        return None, Refusal("malformed", f"its answer is not what was asked for: {plain(error)}")
    if said is None:
        return None, Refusal("silent", "its process ended without an answer")
    for kind in ("memory", "error"):
        if kind in said:
            return None, Refusal(kind, plain(said[kind]))
    answer: Any = said.get("answer")
    if not isinstance(answer, dict):
        return None, Refusal("malformed", "its answer is not what was asked for")
    return cast("dict[str, Any]", answer), None
