"""Begin a module with the weights of another one, as far as they fit."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def begin_with(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Copy into a module what has a place of the same name and shape there; return the names of what was copied."""
    own = module.state_dict()
    fitting = [name for name, value in weights.items() if name in own and own[name].shape == value.shape]
    for name in fitting:
        own[name].copy_(weights[name])
    return fitting


@torch.no_grad()
def take_units(layer: nn.Linear, parent: nn.Linear, *, counts: Tensor) -> None:
    """Give a layer its parent's units; what it computes for each input is then the same number in the same place.

    A wider layer has all of them first and keeps its own, fresh ones behind. A narrower one has those that count most,
    in the order that they had.

    Args:
        layer: With as many inputs as ``parent``.
        parent: Whose units.
        counts: ``[U]``, how much each of the parent's units counts.
    """
    kept = torch.arange(len(counts), device=counts.device)
    if len(layer.weight) < len(counts):
        kept = counts.topk(len(layer.weight)).indices.sort().values
    layer.weight[: len(kept)] = parent.weight[kept]
    layer.bias[: len(kept)] = parent.bias[kept]


@torch.no_grad()
def take_kernel(layer: nn.Conv1d, parent: nn.Conv1d) -> None:
    """Give a convolution its parent's kernel, centred.

    A wider one sees nothing in its outer places until it learns, so that it computes exactly what its parent does; a
    narrower one lacks the outer places.
    """
    (own,), (given,) = layer.kernel_size, parent.kernel_size
    common = min(own, given)
    into, out_of = (own - common) // 2, (given - common) // 2
    layer.weight.zero_()
    layer.weight[..., into : into + common] = parent.weight[..., out_of : out_of + common]
    assert layer.bias is not None
    assert parent.bias is not None
    layer.bias.copy_(parent.bias)
