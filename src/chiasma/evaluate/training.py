"""Train a job's design in this process: build, probe, train in time, and say what was left when it ended."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chiasma.adapt.callbacks import callbacks_of, told
from chiasma.adapt.controller import NAME as CONTROLLER
from chiasma.adapt.kept import growth_of
from chiasma.core.errors import ChiasmaError, NonFiniteError
from chiasma.core.outcome import Rejected
from chiasma.core.rng import seed_torch
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.evaluate.job import Job
from chiasma.evaluate.probe import probe
from chiasma.model.cost import cost, latency_seconds
from chiasma.model.multimodal import ModelSpec
from chiasma.train.callbacks import Action, Callback, Moment, Stop
from chiasma.train.fit import Fit
from chiasma.train.losses import build_loss
from chiasma.train.state import Row
from chiasma.train.trainer import Trainer

MEASURED_STEPS = 5
PATIENCE_SECONDS = 1.0
RESERVE = 0.05
HOPELESS = 2.0
SLOW = "too slow"
NO_STEP = "no step was finished"
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Trained:
    """What is left of a training, in whatever process it was.

    Attributes:
        spec: The model as it is now.
        weights: On the CPU.
        steps: Taken.
        seconds: They took.
        stopped: Why it ended, as in :class:`chiasma.train.fit.Fit`.
        best: The row of the best evaluation on ``steer``; empty where there was none.
        history: All of its rows.
        flops: Of one forward pass for one example.
        parameters: Numbers that are learned.
        latency: Median time of a forward pass of one example, where the job asks for it.
        growth: The record of growth, where the job keeps a checkpoint.
        controller: What a report tells of the controller, likewise.
    """

    spec: ModelSpec
    weights: Mapping[str, Tensor]
    steps: int
    seconds: float
    stopped: str
    best: Row
    history: Sequence[Row]
    flops: float
    parameters: int
    latency: float | None
    growth: Mapping[str, Any]
    controller: Mapping[str, Any]


def train_in_time(
    job: Job,
    dataset: Dataset,
    *,
    started: float,
    start_from: Mapping[str, Tensor] | None = None,
    asked: Callable[[], bool] | None = None,
) -> Fit | Rejected:
    """Build, probe and train the design; rejected where it is at fault or ends too late.

    Args:
        job: What to train.
        dataset: On what.
        started: When the job began (``time.monotonic()``).
        start_from: Weights to begin with, in place of the job's folder of them.
        asked: Whether it should stop, with the best so far; None where nobody will ask.
    """
    deadline = None if job.time_limit_seconds is None else started + job.time_limit_seconds
    finish_by = None if job.finish_within_seconds is None else started + job.finish_within_seconds
    rejected = examine(job, dataset)
    if rejected is not None:
        return rejected
    try:
        ends = _earliest(deadline, finish_by)
        train = partial(_fit, dataset=dataset, started=started, deadline=ends, start_from=start_from, asked=asked)
        fit = _with_memory(job, train)
    except NonFiniteError as error:
        return Rejected(stage="train", reason=str(error))
    except MemoryError as error:
        return Rejected(stage="train", reason=f"out of memory: {error}")
    late = _lateness(job, fit)
    return fit if late is None else Rejected(stage="deadline", reason=late)


def trained(job: Job, dataset: Dataset, fit: Fit) -> Trained:
    """Return what is left of a training, with what it costs; members of its trunk came and went."""
    counted = cost(fit.model.spec, dataset.signature)
    keeps, loop = job.keep_checkpoint is not None, job.design.training.loop
    return Trained(
        spec=fit.model.spec,
        weights={name: value.detach().cpu() for name, value in fit.model.state_dict().items()},
        steps=fit.steps,
        seconds=fit.seconds,
        stopped=fit.stopped,
        best=fit.best,
        history=fit.history,
        flops=counted.flops,
        parameters=counted.parameters,
        latency=latency_seconds(fit.model, dataset.signature) if "latency" in job.objectives else None,
        growth=growth_of(fit, loop, dataset, precision=job.precision) if keeps else {},
        controller=told(fit.callbacks.get(CONTROLLER, {})) if keeps else {},
    )


def examine(job: Job, dataset: Dataset) -> Rejected | None:
    """Build the design's model once and probe it; None if it is worth training."""
    target, counts = dataset.signature.target, dataset.class_counts
    try:
        seed_torch(job.seed, "init")
        with _memory_errors():
            model = job.design.model.build(dataset.signature)
        build_loss(job.design.training.loop.loss, target, class_counts=counts, examples=len(dataset.rows("train")))
    except (ChiasmaError, ValueError) as error:
        return Rejected(stage="build", reason=first_line(error))
    except MemoryError as error:
        return Rejected(stage="build", reason=f"out of memory: {error}")
    return probe(model, dataset.signature, max_parameters=job.max_parameters)


class Stopper(Callback):
    """Ends a training and does nothing else; it begins anew in every sitting, whose wishes and clock are its own."""

    def edit_model(self, model: nn.Module, edit: Mapping[str, Any]) -> None:
        """Never asked for: it only stops."""
        raise AssertionError(f"{self.name} proposes no edits, but was given {dict(edit)}.")

    def state_dict(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to continue from."""


class StopWhenAsked(Stopper):
    """Stops a training once somebody outside of this process wants it to.

    Args:
        asked: Whether somebody does.
    """

    name = "stop_when_asked"

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked = asked

    def review(self, moment: Moment) -> Sequence[Action]:
        """Return a stop where it is wanted."""
        del moment
        return (Stop(INTERRUPTED),) if self.asked() else ()


class TooSlow(Stopper):
    """Stops a training that cannot end in time, as soon as a few steps say so, or one very slow step.

    The first step is left out: memory and kernels are chosen there. Evaluations count with the steps.

    Args:
        started: When the job began (``time.monotonic()``).
        limit_seconds: How long the job may take in all.
    """

    name = "too_slow"

    def __init__(self, *, started: float, limit_seconds: float) -> None:
        self.started = started
        self.limit_seconds = limit_seconds
        self._since: tuple[int, float] | None = None

    def review(self, moment: Moment) -> Sequence[Action]:
        """Return a stop where the steps so far predict an end after the limit."""
        now = time.monotonic()
        if self._since is None:
            self._since = (moment.step, now)
            return ()
        steps, seconds = moment.step - self._since[0], now - self._since[1]
        whole = (now - self.started) + (moment.total_steps - moment.step) * seconds / steps
        if whole <= self.limit_seconds * (1 + RESERVE):
            return ()
        known = steps >= MEASURED_STEPS and seconds >= min(PATIENCE_SECONDS, RESERVE * self.limit_seconds)
        if not known and (whole < HOPELESS * self.limit_seconds or seconds < PATIENCE_SECONDS):
            return ()
        return (Stop(f"{SLOW}: would take about {whole:.0f} s, the limit is {self.limit_seconds:g} s"),)


def _earliest(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)


def _lateness(job: Job, fit: Fit) -> str | None:
    """Return why a training that was ended by the clock is not scored, or None."""
    if fit.stopped.startswith(SLOW):
        return fit.stopped
    if fit.stopped != "deadline":
        return None
    limit, finish = job.time_limit_seconds, job.finish_within_seconds
    if finish is not None and (limit is None or finish < limit):
        return None if fit.steps else f"{NO_STEP} within {finish:g} s"
    return f"the limit of {limit:g} s was reached after {fit.steps} steps"


def _with_memory(job: Job, train: Callable[[Job], Fit]) -> Fit:
    """Train the design; where memory is short, once more with half the examples a micro-batch."""
    try:
        return train(job)
    except MemoryError:
        loop = job.design.training.loop
        if loop.batch_size % (2 * loop.accumulation):
            raise
        halved = replace_at(job.design, "training.loop.accumulation", 2 * loop.accumulation)
        return train(job.model_copy(update={"design": halved}))


def _fit(
    job: Job,
    *,
    dataset: Dataset,
    started: float,
    deadline: float | None,
    start_from: Mapping[str, Tensor] | None,
    asked: Callable[[], bool] | None,
) -> Fit:
    limit = job.time_limit_seconds
    callbacks = callbacks_of(job.design, dataset, seed=job.seed, precision=job.precision)
    callbacks += [] if limit is None else [TooSlow(started=started, limit_seconds=limit)]
    callbacks += [] if asked is None else [StopWhenAsked(asked)]
    trainer = Trainer(
        job.design,
        dataset,
        seed=job.seed,
        fraction=job.fraction,
        metric=job.metric,
        device=job.device,
        precision=job.precision,
        compile=job.compile,
        callbacks=callbacks,
        start_from=start_from if job.start_from is None else Path(job.start_from),
        deadline=deadline,
    )
    with _memory_errors():
        return trainer.fit()


@contextmanager
def _memory_errors() -> Generator[None]:
    """Turn torch's ways to run out of memory into Python's one."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(first_line(error)) from error
        raise


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
