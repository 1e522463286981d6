# pyright: basic
"""Use everything once that torch sets up at its first use: a child can neither import a module nor read the machine."""

import importlib.util
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from chiasma.data.preprocessing import PreprocessingSpec
from chiasma.data.signature import Target
from chiasma.evaluate import jailed_work
from chiasma.evaluate import warm_up as everything
from chiasma.evaluate.job import Job
from chiasma.evaluate.screen_names import MODULES
from chiasma.model.fusion import Generated
from chiasma.model.generated import source_sha256, withdraw_approval
from chiasma.model.heads import HeadSpec
from chiasma.train.design import Design, LoopSpec, TrainingSpec
from chiasma.train.metrics import primary_metric

# What torch imports by itself at the first use of something.
BY_ITSELF = ("torch.nn.utils.parametrize", "torch.utils.checkpoint")

TARGETS = (
    Target(task="classification", labels=("no", "yes")),
    Target(task="multilabel", labels=("a", "b")),
    Target(task="regression", labels=("x",)),
)
SOURCE = """
import torch
from torch import nn
class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.image, self.text = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        def mean(x, mask):
            return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return self.image(mean(image_tokens, image_mask)) * self.text(mean(text_tokens, text_mask))
"""
ROWS = 12
Head: TypeAdapter[Any] = TypeAdapter(HeadSpec)


def warm_up(request: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Import and use everything once, with one thread; called in the warm process before it forks."""
    del request, inputs, outputs
    torch.set_num_interop_threads(1)
    everything.warm_up(threads=1)
    for name in (*MODULES, *BY_ITSELF):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    _operations()
    for target in TARGETS:
        _training(target)
    return {"rehearsal": f"{__name__}:rehearse"}


def rehearse(request: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Do what most children do, for what it writes to."""
    del request, inputs, outputs
    _training(TARGETS[0])
    return {}


def _operations() -> None:
    """Call what sets something up at its first call: optimisers, attention, einsum, decompositions, transforms."""
    x = torch.randn(2, 4, 8, requires_grad=True)
    layers: list[nn.Module] = [
        nn.MultiheadAttention(8, 2, batch_first=True),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        nn.GRU(8, 8, batch_first=True),
        nn.LSTM(8, 8, batch_first=True),
        nn.Bilinear(8, 8, 8),
        nn.Conv1d(4, 4, 3, padding=1),
        nn.BatchNorm1d(4),
    ]
    for layer in layers:
        given = {"MultiheadAttention": 3, "Bilinear": 2}.get(type(layer).__name__, 1)
        result: Any = layer(*[x] * given)
        first: Tensor = result[0] if isinstance(result, tuple) else result
        torch.autograd.backward([first.sum()])
    mixed = torch.einsum("bnd,bmd->bnm", x, x)
    values = [
        mixed.sum(),
        torch.fft.rfft(x).abs().sum(),
        torch.linalg.qr(mixed)[0].sum(),
        torch.linalg.svdvals(mixed).sum(),
    ]
    values += [torch.linalg.eigvalsh(mixed).sum(), torch.linalg.solve(mixed + 9 * torch.eye(4), mixed).sum()]
    torch.autograd.backward([torch.stack(values).sum()])
    parameter = nn.Parameter(torch.ones(2))
    for kind in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD):
        parameter.grad = torch.ones(2)
        kind([parameter], lr=0.1).step()
    nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))
    torch.from_numpy(np.zeros(2, np.float32)).softmax(0).numpy()


def _training(target: Target) -> None:
    """Do once what children do: check, train and predict with a source of ours, whose approval is then taken back."""
    signature = everything.SIGNATURE.model_copy(update={"target": target})
    model = everything.MODEL.model_copy(
        update={"fusion": Generated(source=SOURCE), "head": Head.validate_python({"kind": target.task})}
    )
    training = TrainingSpec(loop=LoopSpec(epochs=1.0, batch_size=4, evaluations=1))
    metric = primary_metric(target)
    objectives = ("error", "flops", "parameters", "latency")
    job = Job(
        key="warm", design=Design(model=model, training=training), dataset="", metric=metric, objectives=objectives
    )
    labels = np.arange(ROWS) % 2
    if target.task != "classification":
        labels = np.stack([labels.astype(np.float32), 1.0 - labels], axis=1)[:, : target.outputs].astype(np.float32)
    columns = {
        "splits": np.repeat(np.arange(3), ROWS // 3).astype(np.int8),
        "labels": labels,
        "groups": np.zeros(ROWS, np.int64),
        "contents": np.zeros(ROWS, np.uint64),
        "image.index": np.arange(ROWS),
        "image.data": (np.arange(ROWS * 3 * 64) % 251).astype(np.uint8).reshape(ROWS, 3, 8, 8),
        "text.index": np.arange(ROWS),
        "text.data": (2 + np.arange(ROWS * 4) % 6).astype(np.uint16).reshape(ROWS, 4),
    }
    preprocessing = PreprocessingSpec(
        signature=signature, target_mean=(0.0,) * target.outputs, target_deviation=(1.0,) * target.outputs
    )
    manifest = {
        "key": "warm",
        "fingerprint": "",
        "sensitive": True,
        "source": "",
        "image_root": None,
        "parts": ["image", "text"],
        "preprocessing": preprocessing.to_dict(),
    }
    inputs = {jailed_work.COLUMN + name: column for name, column in columns.items()}
    logits = np.zeros((ROWS // 3, target.outputs), np.float32)
    outputs = {jailed_work.LOGITS: logits, jailed_work.WEIGHTS: np.zeros(2**20, np.uint8)}
    request = {"job": job.to_dict(), "manifest": manifest, "started": time.monotonic()}
    told = jailed_work.train(request, inputs, outputs)
    assert "rejected" not in told, told
    weights = outputs[jailed_work.WEIGHTS][: told["weights_bytes"]]
    again = {"model": told["spec"], "manifest": manifest, "batch_size": 3, "precision": "float32"}
    jailed_work.predict(again, {**inputs, jailed_work.WEIGHTS: weights}, {jailed_work.LOGITS: logits})
    withdraw_approval(source_sha256(SOURCE))
