# pyright: basic
"""Use everything once that torch sets up at its first use: a child can neither import a module nor read the machine."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chiasma.evaluate import warm_up as everything
from chiasma.evaluate.screen_names import MODULES

# What torch imports by itself at the first use of something.
BY_ITSELF = ("torch.nn.utils.parametrize", "torch.utils.checkpoint")


def warm_up(request: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Import and use everything once, with one thread; called in the warm process before it forks."""
    del request, inputs, outputs
    torch.set_num_interop_threads(1)
    everything.warm_up(threads=1)
    for name in (*MODULES, *BY_ITSELF):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    _operations()
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
