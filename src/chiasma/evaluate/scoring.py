"""From the outputs on ``select`` to an outcome; here alone are its labels looked at."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from chiasma.core.errors import ChiasmaError
from chiasma.core.files import storage_errors, write_atomic
from chiasma.core.outcome import Rejected
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.evaluate.job import Job
from chiasma.evaluate.training import Trained
from chiasma.store.checkpoint import save_checkpoint
from chiasma.train.metrics import measure, objective_error
from chiasma.train.steering import learnt_rows


def unfit(job: Job, done: Trained, logits: np.ndarray) -> Rejected | None:
    """Return why a training cannot be scored, or None."""
    if job.max_parameters is not None and done.parameters > job.max_parameters:
        reason = f"the trained model has {done.parameters:,} parameters, but the limit is {job.max_parameters:,}"
        return Rejected(stage="train", reason=reason)
    if not np.isfinite(logits).all():
        return Rejected(stage="train", reason="the trained model's output on select holds a NaN or an infinity")
    return None


def metrics_of(job: Job, dataset: Dataset, done: Trained, logits: np.ndarray) -> dict[str, float]:
    """Return everything that is measured.

    Raises:
        ChiasmaError: The job's metric is undefined on ``select``; not the candidate's fault.
    """
    labels, loop = dataset.labels(dataset.rows("select")).numpy(), job.design.training.loop
    measured = measure(logits, labels, dataset.signature.target, target_scale=dataset.target_scale)
    if job.metric not in measured:
        raise ChiasmaError(
            f"metric: {job.metric!r} is undefined on the select split of {dataset.source}, for example because it "
            f"holds one class only. Defined there: {', '.join(sorted(measured))}."
        )
    steer = {f"steer_{job.metric}": done.best[job.metric]} if job.metric in done.best else {}
    return {
        "flops": done.flops,
        "parameters": float(done.parameters),
        **measured,
        **steer,
        "train_seconds": done.seconds,
        "steps": float(done.steps),
        "epochs": done.steps * loop.batch_size / len(learnt_rows(dataset, loop)),
        "cut_short": float(done.stopped == "deadline"),
    }


def objectives_of(job: Job, done: Trained, known: Mapping[str, float]) -> dict[str, float]:
    """Return what is minimised."""
    values = {**known, "error": objective_error(job.metric, known[job.metric])}
    if done.latency is not None:
        values["latency"] = done.latency
    return {name: values[name] for name in job.objectives}


def keep(job: Job, dataset: Dataset, done: Trained, logits: np.ndarray) -> None:
    """Write what the job asks to keep, whole or not at all."""
    if job.keep_checkpoint is not None:
        documents = {
            "design": replace_at(job.design, "model", done.spec).to_dict(),
            "signature": dataset.signature.to_dict(),
            "history": done.history,
            "growth": done.growth,
            "controller": done.controller,
            "stopped": done.stopped,
        }
        tensors = {"model": done.weights}
        save_checkpoint(Path(job.keep_checkpoint), done.steps, tensors=tensors, documents=documents, keep=1)
    if job.keep_predictions is not None:
        path = Path(job.keep_predictions)
        content = io.BytesIO()
        np.savez(content, logits=logits, rows=dataset.rows("select"))
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.getvalue())
