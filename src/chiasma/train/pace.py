"""How long things take, and whether there is time for one more."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# The cost of an evaluation before one was measured, in steps an example: a forward pass is a third of a step.
FORWARD_SHARE_OF_STEP = 0.5
CAUTION = 1.5


class Pace:
    """Measures steps, evaluations and saving, and foresees a deadline.

    Args:
        deadline: The value of ``time.monotonic()`` by which everything must be done; None for no hurry.
        steps_per_evaluation: How many steps' worth of examples one evaluation reads.
    """

    def __init__(self, deadline: float | None, *, steps_per_evaluation: float) -> None:
        self.deadline = deadline
        self.steps_per_evaluation = steps_per_evaluation
        self.seconds: dict[str, float] = {}
        self._counted = self._saved = time.monotonic()

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Measure a ``step``, ``evaluation`` or ``save``; steps vary, so the slowest of late counts."""
        started = time.monotonic()
        yield
        ended = time.monotonic()
        self.seconds[what] = max(ended - started, 0.9 * self.seconds.get(what, 0.0))
        if what == "save":
            self._saved = ended

    def is_late(self) -> bool:
        """Return whether another step with an evaluation and a save would end after the deadline."""
        needed = self.seconds.get("step", 0.0) + self.evaluation_seconds() + self.seconds.get("save", 0.0)
        return not self._fits(needed)

    def can_evaluate(self) -> bool:
        """Return whether there is time to evaluate once."""
        return self._fits(self.evaluation_seconds())

    def evaluation_seconds(self) -> float:
        """Return what an evaluation costs: as measured, or guessed from the steps."""
        guess = self.seconds.get("step", 0.0) * self.steps_per_evaluation * FORWARD_SHARE_OF_STEP
        return self.seconds.get("evaluation", guess)

    def take_seconds(self) -> float:
        """Return the time since this was last called, or since the start."""
        now = time.monotonic()
        taken, self._counted = now - self._counted, now
        return taken

    def seconds_since_save(self) -> float:
        """Return the time since the last save, or since the start."""
        return time.monotonic() - self._saved

    def _fits(self, needed: float) -> bool:
        return self.deadline is None or time.monotonic() + CAUTION * needed <= self.deadline
