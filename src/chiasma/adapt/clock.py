"""What a controller costs, and the points of the curves that a report draws of it."""

import time
from collections.abc import Mapping

from chiasma.train.callbacks import Moment

# Points of a report's curves; a longer training keeps every second one, and so on.
MOST_POINTS = 400


class Clock:
    """What a controller costs: seconds of its own computing, of its measuring, and of the steps in between.

    Args:
        known: What :meth:`to_dict` returned.
    """

    def __init__(self, known: Mapping[str, float] | None = None) -> None:
        self._sums = {"steps": 0.0, "computing": 0.0, "measuring": 0.0, **(known or {})}
        self._ended: float | None = None

    def computing(self, moment: Moment) -> "Sitting":
        """Count what is done inside as computing, and the time since the last review as a step.

        A step after which the trainer evaluated is left out, since that time was not the step's.
        """
        return Sitting(self, counts=moment.metrics is None)

    def add(self, what: str, seconds: float) -> None:
        """Count some time."""
        self._sums[what] += seconds

    def begin(self, *, counts: bool) -> float:
        """Return the time, after counting the step that has ended."""
        now = time.perf_counter()
        if counts and self._ended is not None:
            self._sums["steps"] += now - self._ended
        return now

    def end(self) -> float:
        """Return the time, from which the next step is counted."""
        self._ended = time.perf_counter()
        return self._ended

    def to_dict(self) -> dict[str, float]:
        """Return the sums."""
        return dict(self._sums)


class Sitting:
    """One review on the clock; measuring inside of it is told by :meth:`Clock.add` and not counted twice.

    Args:
        clock: Counts.
        counts: Whether the time before was a step alone.
    """

    def __init__(self, clock: Clock, *, counts: bool) -> None:
        self.clock = clock
        self.counts = counts

    def __enter__(self) -> None:
        self._measured = self.clock.to_dict()["measuring"]
        self._started = self.clock.begin(counts=self.counts)

    def __exit__(self, *exception: object) -> None:
        measured = self.clock.to_dict()["measuring"] - self._measured
        self.clock.add("computing", self.clock.end() - self._started - measured)


def thinned(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the points, or every second one where there are too many to draw."""
    return points if len(points) <= MOST_POINTS else points[::2]
