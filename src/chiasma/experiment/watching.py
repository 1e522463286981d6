"""Show a training on the run's console, and let Ctrl-C end it."""

import time
from collections.abc import Mapping, Sequence

from chiasma.experiment.console import Console
from chiasma.train.progress import StepTaken, TrainingProgress
from chiasma.train.trainer import Trainer

SECONDS_BETWEEN_UPDATES = 0.2


class WatchedTraining(TrainingProgress):
    """Draws throughput and time left, and asks the trainer to stop once the user does.

    Args:
        console: Where to draw, and who knows of Ctrl-C.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.trainer: Trainer | None = None
        self._total = self._steps = self._first = self._examples = 0
        self._started = self._shown = 0.0

    def start(self, total_steps: int, *, done: int, history: Sequence[Mapping[str, float]]) -> None:
        """Begin, or continue after ``done`` steps."""
        self._total, self._steps, self._first, self._examples = total_steps, done, done, 0
        self._started = self._shown = time.monotonic()
        if done:
            self.console.say(f"continuing after step {done} of {total_steps}")

    def advance(self, taken: StepTaken) -> None:
        """Show the step now and then; look for Ctrl-C at each."""
        self._steps += 1
        self._examples += taken.examples
        if self.console.interrupted and self.trainer is not None:
            self.trainer.request_stop("interrupted")
        now = time.monotonic()
        if now - self._shown < SECONDS_BETWEEN_UPDATES:
            return
        self._shown = now
        seconds = now - self._started
        left = (self._total - self._steps) * seconds / max(1, self._steps - self._first)
        self.console.status(
            f"step {self._steps}/{self._total}, loss {taken.loss:.3f}, {self._examples / seconds:,.0f} examples/s, "
            f"{left:.0f} s left"
        )

    def evaluated(self, row: Mapping[str, float], *, metric: str) -> None:
        """Leave a line for each evaluation."""
        score = f"{metric} on steer {row[metric]:.4f}"
        self.console.say(f"step {row['step']:.0f}/{self._total}: train loss {row['train_loss']:.4f}, {score}")

    def edited(self, reason: str, *, step: int) -> None:
        """Leave a line for each change of the model."""
        self.console.say(f"step {step}/{self._total}: {reason}")

    def finish(self, stopped: str) -> None:
        """Say why it ended, unless it is what was planned."""
        if stopped != "finished":
            self.console.say(f"stopped after step {self._steps}: {stopped}")
