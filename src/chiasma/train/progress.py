"""What a person sees while a model trains."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_UPDATES = 0.1


@dataclass(frozen=True)
class StepTaken:
    """What one step came to.

    Attributes:
        step: Steps taken so far, this one too.
        epoch: Passes over the train split so far.
        examples: Examples in this step.
        loss: Their mean train loss.
        gradient_norm: Norm of the gradient before clipping.
        rate: Learning rate of the step.
    """

    step: int
    epoch: float
    examples: int
    loss: float
    gradient_norm: float
    rate: float


class TrainingProgress(ABC):
    """Is told how a training goes; None in its place keeps quiet."""

    @abstractmethod
    def start(self, total_steps: int, *, done: int, history: Sequence[Mapping[str, float]]) -> None:
        """Begin, or continue after ``done`` steps with the evaluations in ``history``."""

    @abstractmethod
    def advance(self, taken: StepTaken) -> None:
        """One step was taken."""

    @abstractmethod
    def evaluated(self, row: Mapping[str, float], *, metric: str) -> None:
        """The model was measured on ``steer``; ``metric`` is the one that decides."""

    @abstractmethod
    def edited(self, reason: str, *, step: int) -> None:
        """The model was changed after this step, or a callback says why not; ``reason`` says what and why."""

    @abstractmethod
    def finish(self, stopped: str) -> None:
        """The training ended, and why."""


class ProgressBar(TrainingProgress):
    """A bar with loss, score, examples a second and time left; plain lines where there is no terminal.

    Args:
        console: Where to draw; None for standard error.
        title: What is trained.
    """

    def __init__(self, console: Console | None = None, *, title: str = "training") -> None:
        self.title = title
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None
        self._score = ""
        self._examples = self._steps = 0
        self._started = self._shown = 0.0

    def start(self, total_steps: int, *, done: int, history: Sequence[Mapping[str, float]]) -> None:
        self._examples, self._steps = 0, done
        self._started = self._shown = time.monotonic()
        self._task = self.bar.add_task(self.title, total=total_steps, completed=done, status="")
        self.bar.start()

    def advance(self, taken: StepTaken) -> None:
        self._examples += taken.examples
        self._steps += 1
        now = time.monotonic()
        if now - self._shown >= SECONDS_BETWEEN_UPDATES and self._task is not None:
            self._shown = now
            status = f"loss {taken.loss:.3f}{self._score} {self._examples / (now - self._started):,.0f} examples/s"
            self.bar.update(self._task, completed=self._steps, status=status)

    def evaluated(self, row: Mapping[str, float], *, metric: str) -> None:
        self._score = f" {metric} {row[metric]:.3f}"
        if not self.bar.console.is_terminal:
            self.bar.console.print(f"{self.title}: step {row['step']:.0f}, loss {row['train_loss']:.3f},{self._score}")

    def edited(self, reason: str, *, step: int) -> None:
        self.bar.console.print(f"{self.title}: step {step}, {reason}")

    def finish(self, stopped: str) -> None:
        self.bar.stop()
        if self._task is not None:
            self.bar.remove_task(self._task)
        if stopped != "finished":
            self.bar.console.print(f"{self.title}: stopped after {self._steps} steps ({stopped})")


class SharedProgress(TrainingProgress):
    """Tells several how a training goes, each in turn.

    Args:
        listeners: Whom to tell.
    """

    def __init__(self, listeners: Sequence[TrainingProgress]) -> None:
        self.listeners = tuple(listeners)

    def start(self, total_steps: int, *, done: int, history: Sequence[Mapping[str, float]]) -> None:
        for listener in self.listeners:
            listener.start(total_steps, done=done, history=history)

    def advance(self, taken: StepTaken) -> None:
        for listener in self.listeners:
            listener.advance(taken)

    def evaluated(self, row: Mapping[str, float], *, metric: str) -> None:
        for listener in self.listeners:
            listener.evaluated(row, metric=metric)

    def edited(self, reason: str, *, step: int) -> None:
        for listener in self.listeners:
            listener.edited(reason, step=step)

    def finish(self, stopped: str) -> None:
        for listener in self.listeners:
            listener.finish(stopped)
