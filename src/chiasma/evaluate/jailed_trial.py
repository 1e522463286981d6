"""A trial of a design whose source nobody has approved: trained in the jail, scored here.

The child gets what it is to learn from and the inputs of ``select``. It returns weights, predictions and figures. The
labels of ``select``, the metric and the ranking stay in this process. What it says is bounded and checked: predictions
must be those that its weights give in another process, on other batches; weights must have the names and shapes of the
model; parameters are counted from them. Its floating-point operations, latency and curve on ``steer`` are its word.
"""

import atexit
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from chiasma.core.errors import ChiasmaError
from chiasma.core.outcome import Rejected, Scored
from chiasma.core.rng import kept_torch_generator
from chiasma.core.spec import Spec, replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.signature import Signature
from chiasma.evaluate.jail import Ended, Jail, Limits, Region, SharedArray, Stopping
from chiasma.evaluate.jail.said import plain
from chiasma.evaluate.jailed_data import JailedData, JailedDatasets
from chiasma.evaluate.jailed_told import check_told, read_told
from chiasma.evaluate.jailed_work import LOGITS, START, WEIGHTS
from chiasma.evaluate.job import Job
from chiasma.evaluate.scoring import keep, metrics_of, objectives_of, unfit
from chiasma.evaluate.screen import SourceRefusal, screen
from chiasma.evaluate.training import Trained
from chiasma.model.encoders import Pretrained
from chiasma.model.fusion import Concat
from chiasma.model.generated import unapproved_in
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from chiasma.train.initial import kept_weights

WORK = "chiasma.evaluate.jailed_work"
# Begins the names of metrics that say which guarantee did not hold.
WITHOUT = "jail_without_"
HEADER_BYTES = 2**20
# Weights, gradients and two moments of each number have to find room.
NUMBERS_A_PARAMETER = 4
ANSWER_BYTES = 4 * 2**20
# Another than in training, so that rows have other neighbours.
OTHER_BATCH = 100
FEWEST_BATCHES = 3
TOLERANCE = 1e-3
LEAST_SECONDS = 0.05
# A training that ends by its clock is then measured, and answered for by a second child.
LATE = 1.25
MEASURING_SECONDS = 10.0

_jails: dict[tuple[int, bool], Jail] = {}
_datasets = JailedDatasets()


def shared_jail(*, accept_lesser: bool = False) -> Jail:
    """Return this process's jail; it is closed when the process ends."""
    key = (os.getpid(), accept_lesser)
    if key not in _jails:
        _jails[key] = Jail(accept_lesser=accept_lesser)
        atexit.register(_jails[key].close)
    return _jails[key]


def run_jailed(
    job: Job,
    dataset: Dataset,
    jail: Jail | None = None,
    *,
    screened: bool = True,
    stopping: Stopping | None = None,
) -> Scored | Rejected:
    """Screen, check and train a design in the jail, and score it here; never raises for what a candidate does.

    Args:
        job: What to train. It is trained on the CPU, whatever device it names.
        dataset: On what.
        jail: None for the process's own.
        screened: Whether sources are read first. Only tests of the wall leave it out.
        stopping: Who may end the training early; it is scored with the best so far, or rejected at stage ``stopped``
            where it does not end by itself.

    Raises:
        JailError: The jail cannot be closed on this machine.
        StorageError: What is to be kept cannot be written.
    """
    for part in unapproved_in(job.design) if screened else ():
        read = screen(part.source)
        if isinstance(read, SourceRefusal):
            return Rejected(stage="screen", reason=f"{read.rule}: {read.words}")
    unable = _unable(job)
    if unable is not None:
        return Rejected(stage="jail", reason=unable)
    jail = jail or shared_jail(accept_lesser=job.accept_lesser_jail)
    jail.start()
    # The cold start of the jail is ours; a candidate's time begins after it.
    started = time.monotonic()
    shown = _datasets.shown(dataset, tuple(job.design.model.encoders))
    ended = _train(job, dataset, jail, shown, started=started, stopping=stopping)
    outcome = _judged(job, dataset, jail, shown, ended, started=started, stopping=stopping)
    if isinstance(outcome, Rejected) and not ended.level.is_full:
        return outcome.model_copy(update={"reason": f"{outcome.reason} (in a jail {ended.level.words})"})
    return outcome


def refusal_of(ended: Ended, *, stage: str = "jail") -> Rejected | None:
    """Return the rejection that a refusal of the jail is, or None where there is an answer."""
    if ended.refusal is None:
        return None
    kind, reason = ended.refusal.kind, ended.refusal.reason
    if kind in ("deadline", "stopped"):
        return Rejected(stage=kind, reason=reason)
    if kind == "memory":
        return Rejected(stage=stage, reason=f"out of memory: {reason}")
    return Rejected(stage="generated" if kind == "error" else stage, reason=reason)


def _unable(job: Job) -> str | None:
    """Return why a job cannot be done in the jail, or None."""
    pretrained = [name for name, spec in job.design.model.encoders.items() if isinstance(spec, Pretrained)]
    if pretrained:
        return (
            f"encoders.{pretrained[0]}: a pretrained backbone is read from files, which the jail has none of; extract "
            "its tokens first (chiasma features), or approve the source"
        )
    return None


def _train(
    job: Job, dataset: Dataset, jail: Jail, shown: JailedData, *, started: float, stopping: Stopping | None
) -> Ended:
    inputs: dict[str, np.ndarray | SharedArray] = dict(shown.columns)
    if job.start_from is not None:
        start = safetensors.torch.save(kept_weights(Path(job.start_from)))
        inputs[START] = np.frombuffer(start, np.uint8)
    room = job.jail_memory_bytes // NUMBERS_A_PARAMETER
    most = HEADER_BYTES + (room if job.max_parameters is None else min(room, 4 * job.max_parameters))
    outputs = {LOGITS: _logits_region(dataset), WEIGHTS: Region.of("u1", most)}
    # Whether something is kept, not where.
    told = job.model_copy(
        update={
            "device": "cpu",
            "compile": False,
            "dataset": "",
            "start_from": None,
            "keep_predictions": None,
            "keep_checkpoint": None if job.keep_checkpoint is None else "kept",
            "also": {},
        }
    )
    request = {"job": told.to_dict(), "manifest": dict(shown.manifest), "started": started}
    limits = _limits(job, started)
    return jail.run(f"{WORK}:train", request, inputs=inputs, outputs=outputs, limits=limits, stopping=stopping)


def _limits(job: Job, started: float) -> Limits:
    """Return what a child may use; it ends by itself in time if it can, and is killed if it does not."""
    limits = [] if job.jail_seconds is None else [job.jail_seconds]
    if job.time_limit_seconds is not None:
        limits.append(job.time_limit_seconds)
    if job.finish_within_seconds is not None:
        limits.append(LATE * job.finish_within_seconds + MEASURING_SECONDS)
    left = max(LEAST_SECONDS, min(limits) - (time.monotonic() - started)) if limits else None
    return Limits(wall_seconds=left, memory_bytes=job.jail_memory_bytes, answer_bytes=ANSWER_BYTES)


def _judged(
    job: Job,
    dataset: Dataset,
    jail: Jail,
    shown: JailedData,
    ended: Ended,
    *,
    started: float,
    stopping: Stopping | None = None,
) -> Scored | Rejected:
    """Check what a child returned, and score it."""
    refused = refusal_of(ended) or _own_rejection(ended)
    if refused is not None:
        return refused
    done = _done(job, dataset, ended)
    if isinstance(done, Rejected):
        return done
    outputs = ended.outputs[LOGITS]
    rejected = unfit(job, done, outputs) or _not_its_weights(
        job, dataset, jail, shown, done, outputs, started=started, stopping=stopping
    )
    if rejected is not None:
        return rejected
    # Not in the child: its outputs are compared with those of another process by their own size.
    logits = dataset.restricted(shown.restored(outputs), dataset.rows("select"))
    known = {**metrics_of(job, dataset, done, logits), **_level(ended)}
    objectives = objectives_of(job, done, known)
    limit, spent = job.time_limit_seconds, time.monotonic() - started
    if limit is not None and spent > limit:
        reason = f"took {spent:.1f} s with its measurements, the limit is {limit:g} s"
        return Rejected(stage="deadline", reason=reason)
    keep(job, dataset, done, logits)
    return Scored(objectives=objectives, metrics=known)


def _own_rejection(ended: Ended) -> Rejected | None:
    """Return the rejection that a child itself reports."""
    found: Any = (ended.answer or {}).get("rejected")
    if not isinstance(found, dict):
        return None
    said = cast("dict[str, Any]", found)
    return Rejected(stage=plain(said.get("stage", "train"))[:20], reason=plain(said.get("reason", "")))


def _done(job: Job, dataset: Dataset, ended: Ended) -> Trained | Rejected:
    """Return what a child says is left of a training, after checking what can be checked."""
    try:
        told = read_told(ended.answer or {})
        spec = ModelSpec.from_dict(told.spec)
        check_told(told, job, spec)
        weights = _weights(ended.outputs[WEIGHTS], told.weights_bytes)
    except (ChiasmaError, SafetensorError, ValueError, KeyError, RecursionError) as error:
        return Rejected(stage="jail", reason=f"what it returned is not a training: {plain(error)}")
    try:
        fault = _another_model(job, spec) or _wrong_weights(spec, dataset.signature, weights)
    except (ChiasmaError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
        fault = f"the model that it returned cannot be built: {plain(error)}"
    if fault is not None:
        return Rejected(stage="jail", reason=fault)
    return Trained(
        spec=spec,
        weights=weights,
        steps=told.steps,
        seconds=min(told.seconds, ended.seconds),
        stopped=told.stopped,
        best=told.best,
        history=told.history,
        flops=told.flops,
        parameters=_parameters(spec, dataset.signature, weights),
        latency=told.latency if "latency" in job.objectives else None,
        growth=_as_written(told.growth),
        controller=_as_written(told.controller),
    )


def _as_written(told: Spec | None) -> dict[str, Any]:
    """Return what a child says in plain JSON, without what it left out."""
    return {} if told is None else told.model_dump(mode="json", exclude_unset=True)


def _weights(place: np.ndarray, count: int) -> dict[str, Tensor]:
    """Return the weights that a child wrote.

    Raises:
        SafetensorError: They are not safetensors.
        ValueError: A tensor is not finite, or is no plain array of numbers.
    """
    if count > len(place):
        raise ValueError(f"{count:,} bytes of weights, but there is room for {len(place):,}")
    weights = safetensors.torch.load(place[:count].tobytes())
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"the weight {plain(name)} holds a NaN or an infinity")
    return weights


def _another_model(job: Job, spec: ModelSpec) -> str | None:
    """Return whether a child returned another model than the one asked for; growing trunks may differ in it."""
    ours = job.design.model
    training = job.design.training
    free = {"trunk": ours.trunk, "gates": ours.gates} if training.growth or training.controller else {}
    if spec.model_copy(update=free) != ours:
        return "the model it returned is not the one that it was to train"
    return None


def _wrong_weights(spec: ModelSpec, signature: Signature, weights: Mapping[str, Tensor]) -> str | None:
    """Compare names, shapes and types with our own build of everything but the generated part."""
    own = _stand_in(spec, signature).state_dict()
    expected = {name: value for name, value in own.items() if not name.startswith("fusion.")}
    found = {name: value for name, value in weights.items() if not name.startswith("fusion.")}
    if {*found} != {*expected}:
        name = sorted({*found} ^ {*expected})[0]
        return f"the weight {plain(name)} is {'not of the model' if name in found else 'missing'}"
    for name, value in found.items():
        if (value.shape, value.dtype) != (expected[name].shape, expected[name].dtype):
            return f"the weight {name} must be {list(expected[name].shape)}, but is {list(value.shape)}"
    return None


def _parameters(spec: ModelSpec, signature: Signature, weights: Mapping[str, Tensor]) -> int:
    """Count what is learned: of our own parts exactly, of the generated one every number that it keeps."""
    parts = _stand_in(spec, signature).named_parameters()
    own = sum(value.numel() for name, value in parts if not name.startswith("fusion.") and value.requires_grad)
    generated = sum(v.numel() for name, v in weights.items() if name.startswith("fusion.") and v.is_floating_point())
    return own + generated


def _stand_in(spec: ModelSpec, signature: Signature) -> MultimodalModel:
    """Return the model with a fusion of ours, of which nothing is looked at; without contents, however large it is."""
    with kept_torch_generator(), torch.device("meta"):
        return replace_at(spec, "fusion", Concat().to_dict()).build(signature)


def _not_its_weights(
    job: Job,
    dataset: Dataset,
    jail: Jail,
    shown: JailedData,
    done: Trained,
    logits: np.ndarray,
    *,
    started: float,
    stopping: Stopping | None,
) -> Rejected | None:
    """Return whether its predictions are not what its weights say in another process, which remembers nothing."""
    data = safetensors.torch.save(dict(done.weights))
    again = jail.run(
        f"{WORK}:predict",
        {
            "model": done.spec.to_dict(),
            "manifest": dict(shown.manifest),
            # Small data would otherwise be one batch both times.
            "batch_size": max(1, min(OTHER_BATCH, len(logits) // FEWEST_BATCHES)),
            "precision": job.precision,
        },
        inputs={**shown.columns, WEIGHTS: np.frombuffer(data, np.uint8)},
        outputs={LOGITS: _logits_region(dataset)},
        limits=_limits(job, started),
        stopping=stopping,
    )
    refused = refusal_of(again)
    if refused is not None:
        return refused
    scale = max(1.0, float(np.abs(logits).max()))
    difference = float(np.abs(again.outputs[LOGITS] - logits).max()) / scale
    if math.isfinite(difference) and difference <= _tolerance(job):
        return None
    reason = "its predictions are not what its weights give in another process: it remembers, or looks at neighbours"
    return Rejected(stage="behaviour", reason=reason)


def _tolerance(job: Job) -> float:
    return TOLERANCE if job.precision == "float32" else 50 * TOLERANCE


def _logits_region(dataset: Dataset) -> Region:
    return Region.of("f4", len(dataset.rows("select")), dataset.signature.target.outputs)


def _level(ended: Ended) -> dict[str, float]:
    """Return the level of the jail as figures, for the record of the trial."""
    missing = {f"{WITHOUT}{name}": 1.0 for name in ended.level.missing}
    return {"jailed": 1.0, "jail_seconds": ended.seconds, **missing}
