"""What is done inside the jail: check, train and predict with source that nobody has approved.

Each function is an entry of :class:`chiasma.evaluate.jail.Jail`: from a request and arrays to plain JSON and arrays.
Whatever they return is the word of a process that ran hostile code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from chiasma.core.outcome import Rejected
from chiasma.core.rng import seed_torch
from chiasma.core.spec import Spec
from chiasma.data.batch import Batch, Tokens
from chiasma.data.dataset import Dataset
from chiasma.data.signature import Signature
from chiasma.evaluate.behaviour import fault_of
from chiasma.evaluate.jail.child import STOP
from chiasma.evaluate.job import Job
from chiasma.evaluate.training import Trained, train_in_time, trained
from chiasma.model.generated import approve_in_this_process, generated_in
from chiasma.model.multimodal import ModelSpec
from chiasma.train.predicting import predict_logits

Arrays = Mapping[str, np.ndarray]
WEIGHTS = "weights"
LOGITS = "logits"
START = "start"
COLUMN = "column/"


def check(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> Mapping[str, Any]:
    """Return how a module misbehaves, or None, under ``fault``."""
    del inputs, outputs
    spec = ModelSpec.from_dict(request["model"])
    return {"fault": _misbehaviour(spec)}


def train(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> Mapping[str, Any]:
    """Check and train a job's design; return what is left of the training, and fill ``weights`` and ``logits``."""
    job = Job.from_dict(request["job"])
    fault = _misbehaviour(job.design)
    if fault is not None:
        return {"rejected": {"stage": "behaviour", "reason": fault}}
    dataset = given_dataset(request["manifest"], inputs)
    start = safetensors.torch.load(inputs[START].tobytes()) if START in inputs else None
    asked = (lambda: bool(outputs[STOP][0])) if STOP in outputs else None
    fit = train_in_time(job, dataset, started=float(request["started"]), start_from=start, asked=asked)
    if isinstance(fit, Rejected):
        return {"rejected": {"stage": fit.stage, "reason": fit.reason}}
    logits = predict_logits(fit.model, dataset, dataset.rows("select"), precision=job.precision)
    if logits.shape != outputs[LOGITS].shape:
        return {"rejected": {"stage": "probe", "reason": f"the output has shape {list(logits.shape)}"}}
    outputs[LOGITS][...] = logits
    done = trained(job, dataset, fit)
    return {**_told(done), "weights_bytes": put_weights(done.weights, outputs[WEIGHTS])}


def predict(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> Mapping[str, Any]:
    """Fill ``logits`` with what given weights say of ``select``, in batches of another size than in training."""
    dataset = given_dataset(request["manifest"], inputs)
    model = _model(request, inputs, dataset.signature)
    rows = dataset.rows("select")
    logits = predict_logits(model, dataset, rows, batch_size=int(request["batch_size"]), precision=request["precision"])
    outputs[LOGITS][...] = logits
    return {}


def answer(request: Mapping[str, Any], inputs: Arrays, outputs: Arrays) -> Mapping[str, Any]:
    """Fill ``logits`` with what given weights say of one batch."""
    model = _model(request, inputs, Signature.from_dict(request["signature"]))
    outputs[LOGITS][...] = predict_logits(model, [given_batch(request["modalities"], inputs)])
    return {}


def given_dataset(manifest: Mapping[str, Any], inputs: Arrays) -> Dataset:
    """Return the dataset that was handed over as columns."""
    columns = {name.removeprefix(COLUMN): array for name, array in inputs.items() if name.startswith(COLUMN)}
    return Dataset.of_columns(manifest, columns)


def batch_arrays(batch: Batch) -> dict[str, np.ndarray]:
    """Return a batch as arrays for :func:`given_batch`; ids stay where they are."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in batch.inputs.items():
        parts = {"x": value.x, "mask": value.mask, "boxes": value.boxes} if isinstance(value, Tokens) else {"": value}
        arrays |= {f"{name}/{part}": each.numpy(force=True) for part, each in parts.items() if each is not None}
        arrays[f"{name}/present"] = batch.present[name].numpy(force=True)
    return arrays


def given_batch(modalities: Sequence[str], arrays: Arrays) -> Batch:
    """Return the batch that was handed over as arrays."""
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        if name != WEIGHTS:
            tensors[name] = torch.as_tensor(array)
    inputs: dict[str, Tensor | Tokens] = {}
    for name in modalities:
        if f"{name}/x" in tensors:
            inputs[name] = Tokens(tensors[f"{name}/x"], tensors[f"{name}/mask"], tensors.get(f"{name}/boxes"))
        else:
            inputs[name] = tensors[f"{name}/"]
    present = {name: tensors[f"{name}/present"] for name in modalities}
    count = len(next(iter(present.values())))
    return Batch(inputs, present, tuple(str(row) for row in range(count)))


def put_weights(weights: Mapping[str, Tensor], place: np.ndarray) -> int:
    """Write weights as safetensors and return their bytes.

    Raises:
        ValueError: They need more room than there is.
    """
    data = safetensors.torch.save({name: value.contiguous().clone() for name, value in sorted(weights.items())})
    if len(data) > len(place):
        raise ValueError(f"the weights have {len(data):,} bytes, but the limit is {len(place):,}")
    place[: len(data)] = np.frombuffer(data, np.uint8)
    return len(data)


def _misbehaviour(spec: Spec) -> str | None:
    """Approve each source for this process, which can do nothing with it, and return its first fault."""
    for part in generated_in(spec):
        approve_in_this_process(part.sha256)
        fault = fault_of(part.source)
        if fault is not None:
            return fault
    return None


def _model(request: Mapping[str, Any], inputs: Arrays, signature: Signature) -> Any:
    spec = ModelSpec.from_dict(request["model"])
    for part in generated_in(spec):
        approve_in_this_process(part.sha256)
    seed_torch(0, "jailed")
    model = spec.build(signature)
    model.load_state_dict(safetensors.torch.load(inputs[WEIGHTS].tobytes()), strict=True)
    return model.eval()


def _told(done: Trained) -> dict[str, Any]:
    return {
        "spec": done.spec.to_dict(),
        "steps": done.steps,
        "seconds": done.seconds,
        "stopped": done.stopped,
        "best": dict(done.best),
        "history": [dict(row) for row in done.history],
        "flops": done.flops,
        "parameters": done.parameters,
        "latency": done.latency,
        "growth": done.growth,
        "controller": done.controller,
    }
