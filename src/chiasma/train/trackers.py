"""Other programs that a training is shown in. What they are told is a copy: the run's own store is the truth."""

import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from chiasma.train.metrics import higher_is_better
from chiasma.train.progress import StepTaken, TrainingProgress

LOGGER = logging.getLogger(__name__)

End = Literal["finished", "interrupted", "failed"]
# What stands in a row of an evaluation beside the metrics.
_OTHER_COLUMNS = ("step", "epoch", "rate", "train_loss")
# The name under which document 000 knows the best area under the ROC curve.
_BEST_NAMES = {"auroc": "val/best_auc"}


class Tracker(ABC):
    """Another program that a training is shown in, such as Weights & Biases; once made, it is ready to be told.

    Its methods may raise whatever that program raises: :class:`TrackedTraining` sees to it that the training goes on.

    Attributes:
        name: What its users call the program.
        place: Where they find the training in it.
    """

    name: str
    place: str

    @abstractmethod
    def log(self, values: Mapping[str, float], *, step: int, events: Sequence[str] = ()) -> None:
        """Show finite figures, and what happened, after a step; each call is about a later step than the one before."""

    @abstractmethod
    def summarise(
        self,
        values: Mapping[str, Any],
        *,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        files: Mapping[str, Path],
    ) -> None:
        """Show what the training came to: single values by name, tables with one mapping a row, and files by name.

        ``model`` among the files is the folder of the saved model.
        """

    @abstractmethod
    def close(self, end: End) -> None:
        """Say how the training ended and let go; what was shown is safe afterwards."""


@dataclass
class _Row:
    """What is known of one step; it is shown once the next step begins, so that a step is shown whole and once."""

    step: int
    values: dict[str, float] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    due: bool = False


class TrackedTraining(TrainingProgress):
    """Shows trackers a training: ``train/*`` every so many steps, and ``val/*`` after each evaluation on ``steer``.

    ``val/best_auc`` is the best area under the ROC curve so far, ``val/best_METRIC`` the best of the metric that
    decides where that is another. A tracker that fails is told nothing more: there is one warning, and the training
    goes on. As a context it lets go of the trackers at the end, and tells them how the training ended.

    Args:
        trackers: Whom to show it.
        every_steps: Steps from one row of ``train/*`` to the next.
        mark: File with the last step that was shown. A training that was killed repeats the steps after its newest
            checkpoint; those that were shown are not shown again. None for a training that is never continued.
    """

    def __init__(self, trackers: Sequence[Tracker], *, every_steps: int = 50, mark: Path | None = None) -> None:
        self.every_steps = every_steps
        self._trackers = tuple(trackers)
        self._silent: set[str] = set()
        self._mark = mark
        self._shown = _read_mark(mark)
        self._row: _Row | None = None
        self._best: dict[str, float] = {}
        self._stopped = ""
        self._examples = 0
        self._seconds = self._clock = 0.0

    def start(self, total_steps: int, *, done: int, history: Sequence[Mapping[str, float]]) -> None:
        """Begin, or continue with the best values of the evaluations so far."""
        self._clock = time.monotonic()
        for row in history:
            self._note_best(_metrics(row))

    def advance(self, taken: StepTaken) -> None:
        """Show the step before if it is due, and note this one."""
        self._show()
        now = time.monotonic()
        self._seconds += now - self._clock
        self._examples += taken.examples
        self._clock = now
        values = {
            "epoch": taken.epoch,
            "train/loss": taken.loss,
            "train/learning_rate": taken.rate,
            "train/gradient_norm": taken.gradient_norm,
            "train/examples_per_second": self._examples / max(self._seconds, 1e-9),
        }
        self._row = _Row(taken.step, values, due=taken.step % self.every_steps == 0)

    def evaluated(self, row: Mapping[str, float], *, metric: str) -> None:
        """Note every metric, and the best so far."""
        metrics = _metrics(row)
        self._note_best(metrics)
        values = {f"val/{name}": value for name, value in metrics.items()}
        for name in dict.fromkeys(["auroc", metric]):
            if name in self._best:
                values[_BEST_NAMES.get(name, f"val/best_{name}")] = self._best[name]
        place = {"epoch": row["epoch"], "train/loss_mean": row["train_loss"], "train/learning_rate": row["rate"]}
        self._row_of(int(row["step"])).values.update(place | values)
        # The time of an evaluation is not the time of the steps around it.
        self._clock = time.monotonic()

    def edited(self, reason: str, *, step: int) -> None:
        """Note what happened to the model."""
        self._row_of(step).events.append(reason)

    def finish(self, stopped: str) -> None:
        """Show what is still due."""
        self._show()
        self._stopped = stopped

    def summarise(
        self,
        values: Mapping[str, Any],
        *,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        files: Mapping[str, Path],
    ) -> None:
        """Show what the training came to; see :meth:`Tracker.summarise`."""
        self._tell(lambda tracker: tracker.summarise(values, tables=tables, files=files))

    def __enter__(self) -> "TrackedTraining":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interrupted = self._stopped == "interrupted" or kind is KeyboardInterrupt
        end: End = "interrupted" if interrupted else "finished" if kind is None else "failed"
        for tracker in self._trackers:
            self._try(tracker, lambda each: each.close(end))

    def _row_of(self, step: int) -> _Row:
        """Return the row of a step that is now certain to be shown."""
        if self._row is None or self._row.step != step:
            self._show()
            self._row = _Row(step)
        self._row.due = True
        return self._row

    def _note_best(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            best = max if higher_is_better(name) else min
            self._best[name] = best(value, self._best.get(name, value))

    def _show(self) -> None:
        row, self._row = self._row, None
        if row is None or not row.due or not self._trackers:
            return
        self._examples, self._seconds = 0, 0.0
        if row.step <= self._shown:
            return
        # Before it is shown: a process that is killed in between loses one row of a copy, and doubles none.
        self._remember(row.step)
        values = {name: value for name, value in row.values.items() if math.isfinite(value)}
        self._tell(lambda tracker: tracker.log(values, step=row.step, events=row.events))

    def _remember(self, step: int) -> None:
        self._shown = step
        if self._mark is None:
            return
        try:
            _write_mark(self._mark, step)
        except OSError as error:
            LOGGER.warning("Cannot write %s (%s): a resumed training may be shown some steps twice.", self._mark, error)
            self._mark = None

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            if tracker.name not in self._silent:
                self._try(tracker, what)

    def _try(self, tracker: Tracker, what: Callable[[Tracker], None]) -> None:
        try:
            what(tracker)
        except Exception as error:  # noqa: BLE001 another's program can fail in any way, and must not end a training
            if tracker.name not in self._silent:
                self._silent.add(tracker.name)
                LOGGER.warning(
                    "%s failed and is told nothing more; the training goes on. %s: %s",
                    tracker.name,
                    type(error).__name__,
                    " ".join(str(error).split()),
                )


def _metrics(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in _OTHER_COLUMNS}


def _read_mark(path: Path | None) -> int:
    if path is None or not path.exists():
        return 0
    text = path.read_text().strip()
    return int(text) if text.isdecimal() else 0


def _write_mark(path: Path, step: int) -> None:
    """Write a number over the one before: one write of the same length, so that a kill leaves one or the other.

    It is not synced: it must outlive the process, and what a power cut takes of a copy is no loss.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{step:020d}\n".encode())
    finally:
        os.close(descriptor)
