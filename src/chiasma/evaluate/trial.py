"""One trial: build, probe, train, count, measure. Every candidate and every baseline goes through this same call."""

import io
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chiasma.adapt.callbacks import callbacks_of, told
from chiasma.adapt.controller import NAME as CONTROLLER
from chiasma.adapt.kept import growth_of
from chiasma.core.errors import ChiasmaError, NonFiniteError
from chiasma.core.files import storage_errors, write_atomic
from chiasma.core.outcome import Rejected, Scored
from chiasma.core.rng import seed_torch
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.evaluate.job import Job
from chiasma.evaluate.probe import probe
from chiasma.model.cost import cost, latency_seconds
from chiasma.model.plugins import plugins_of
from chiasma.store.checkpoint import save_checkpoint
from chiasma.train.callbacks import Action, Callback, Moment, Stop
from chiasma.train.design import Design
from chiasma.train.fit import Fit
from chiasma.train.losses import build_loss
from chiasma.train.metrics import measure, objective_error
from chiasma.train.predicting import predict_logits
from chiasma.train.steering import learnt_rows
from chiasma.train.trainer import Trainer

MEASURED_STEPS = 5
PATIENCE_SECONDS = 1.0
RESERVE = 0.05
HOPELESS = 2.0
SLOW = "too slow"
NO_STEP = "no step was finished"


def run_trial(job: Job, dataset: Dataset) -> Scored | Rejected:
    """Build, probe, train, count and measure one design on ``select``; ``test`` is never touched.

    Returns:
        Scored, or Rejected at stage ``build``, ``probe``, ``train``, ``deadline`` or ``plugin``.

    Raises:
        StorageError: What is to be kept cannot be written.
        ConfigError: The job's metric or device does not exist; not the candidate's fault.
    """
    try:
        return _trial(job, dataset)
    except Exception as error:
        # The boundary to third parties' code: what it raises is its own fault, whatever type it has.
        culprit = plugin_at_fault(error, job.design)
        if culprit is None:
            raise
        reason = f"{culprit} raised {type(error).__name__}: {_first_line(error)}"
        return Rejected(stage="plugin", reason=reason)


def plugin_at_fault(error: Exception, design: Design) -> str | None:
    """Return the plugin of a design in whose package an exception was raised or passed through, or None."""
    modules = {str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)}
    for plugin in plugins_of(design):
        package = type(plugin.resolve()).__module__.partition(".")[0]
        if any(module.partition(".")[0] == package for module in modules):
            return f"{plugin.group} {plugin.name}"
    return None


def _trial(job: Job, dataset: Dataset) -> Scored | Rejected:
    started = time.monotonic()
    deadline = None if job.time_limit_seconds is None else started + job.time_limit_seconds
    finish_by = None if job.finish_within_seconds is None else started + job.finish_within_seconds
    rejected = examine(job, dataset)
    if rejected is not None:
        return rejected
    try:
        fit = _train(job, dataset, started=started, deadline=_earliest(deadline, finish_by))
    except NonFiniteError as error:
        return Rejected(stage="train", reason=str(error))
    except MemoryError as error:
        return Rejected(stage="train", reason=f"out of memory: {error}")
    late = _lateness(job, fit)
    if late is not None:
        return Rejected(stage="deadline", reason=late)
    # Of the trained model: members of its trunk came and went.
    counted = cost(fit.model.spec, dataset.signature)
    if job.max_parameters is not None and counted.parameters > job.max_parameters:
        reason = f"the trained model has {counted.parameters:,} parameters, but the limit is {job.max_parameters:,}"
        return Rejected(stage="train", reason=reason)
    logits = predict_logits(fit.model, dataset, dataset.rows("select"), precision=job.precision)
    if not np.isfinite(logits).all():
        return Rejected(stage="train", reason="the trained model's output on select holds a NaN or an infinity")
    known = {"flops": counted.flops, "parameters": float(counted.parameters), **_metrics(job, dataset, fit, logits)}
    objectives = _objectives(job, dataset, fit, known)
    if deadline is not None and time.monotonic() > deadline:
        reason = (
            f"took {time.monotonic() - started:.1f} s with its measurements, the limit is {job.time_limit_seconds:g} s"
        )
        return Rejected(stage="deadline", reason=reason)
    _keep(job, dataset, fit, logits)
    return Scored(objectives=objectives, metrics=known)


def examine(job: Job, dataset: Dataset) -> Rejected | None:
    """Build the design's model once and probe it; None if it is worth training."""
    target, counts = dataset.signature.target, dataset.class_counts
    try:
        seed_torch(job.seed, "init")
        with _memory_errors():
            model = job.design.model.build(dataset.signature)
        build_loss(job.design.training.loop.loss, target, class_counts=counts, examples=len(dataset.rows("train")))
    except (ChiasmaError, ValueError) as error:
        return Rejected(stage="build", reason=_first_line(error))
    except MemoryError as error:
        return Rejected(stage="build", reason=f"out of memory: {error}")
    return probe(model, dataset.signature, max_parameters=job.max_parameters)


class TooSlow(Callback):
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

    def edit_model(self, model: nn.Module, edit: Mapping[str, Any]) -> None:
        """Never asked for: it only stops."""
        raise AssertionError(f"{self.name} proposes no edits, but was given {dict(edit)}.")

    def state_dict(self) -> Mapping[str, Any]:
        """Return nothing: a sitting is judged by its own clock."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to continue from."""


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


def _train(job: Job, dataset: Dataset, *, started: float, deadline: float | None) -> Fit:
    """Train the design; where memory is short, once more with half the examples a micro-batch."""
    try:
        return _fit(job, dataset, started=started, deadline=deadline)
    except MemoryError:
        loop = job.design.training.loop
        if loop.batch_size % (2 * loop.accumulation):
            raise
        halved = replace_at(job.design, "training.loop.accumulation", 2 * loop.accumulation)
        return _fit(job.model_copy(update={"design": halved}), dataset, started=started, deadline=deadline)


def _fit(job: Job, dataset: Dataset, *, started: float, deadline: float | None) -> Fit:
    limit = job.time_limit_seconds
    adapting = callbacks_of(job.design, dataset, seed=job.seed, precision=job.precision)
    trainer = Trainer(
        job.design,
        dataset,
        seed=job.seed,
        fraction=job.fraction,
        metric=job.metric,
        device=job.device,
        precision=job.precision,
        compile=job.compile,
        callbacks=[*adapting, *([] if limit is None else [TooSlow(started=started, limit_seconds=limit)])],
        start_from=None if job.start_from is None else Path(job.start_from),
        deadline=deadline,
    )
    with _memory_errors():
        return trainer.fit()


def _metrics(job: Job, dataset: Dataset, fit: Fit, logits: np.ndarray) -> dict[str, float]:
    labels, loop = dataset.labels(dataset.rows("select")).numpy(), job.design.training.loop
    measured = measure(logits, labels, dataset.signature.target, target_scale=dataset.target_scale)
    if job.metric not in measured:
        raise ChiasmaError(
            f"metric: {job.metric!r} is undefined on the select split of {dataset.source}, for example because it "
            f"holds one class only. Defined there: {', '.join(sorted(measured))}."
        )
    steer = {f"steer_{job.metric}": fit.best[job.metric]} if job.metric in fit.best else {}
    return {
        **measured,
        **steer,
        "train_seconds": fit.seconds,
        "steps": float(fit.steps),
        "epochs": fit.steps * loop.batch_size / len(learnt_rows(dataset, loop)),
        "cut_short": float(fit.stopped == "deadline"),
    }


def _objectives(job: Job, dataset: Dataset, fit: Fit, known: Mapping[str, float]) -> dict[str, float]:
    values = {**known, "error": objective_error(job.metric, known[job.metric])}
    if "latency" in job.objectives:
        values["latency"] = latency_seconds(fit.model, dataset.signature)
    return {name: values[name] for name in job.objectives}


def _keep(job: Job, dataset: Dataset, fit: Fit, logits: np.ndarray) -> None:
    """Write what the job asks to keep, whole or not at all."""
    if job.keep_checkpoint is not None:
        documents = {
            "design": replace_at(job.design, "model", fit.model.spec).to_dict(),
            "signature": dataset.signature.to_dict(),
            "history": fit.history,
            "growth": growth_of(fit, job.design.training.loop, dataset, precision=job.precision),
            "controller": told(fit.callbacks.get(CONTROLLER, {})),
        }
        weights = {name: value.cpu() for name, value in fit.model.state_dict().items()}
        save_checkpoint(Path(job.keep_checkpoint), fit.steps, tensors={"model": weights}, documents=documents, keep=1)
    if job.keep_predictions is not None:
        path = Path(job.keep_predictions)
        content = io.BytesIO()
        np.savez(content, logits=logits, rows=dataset.rows("select"))
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.getvalue())


@contextmanager
def _memory_errors() -> Generator[None]:
    """Turn torch's ways to run out of memory into Python's one."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(_first_line(error)) from error
        raise


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
