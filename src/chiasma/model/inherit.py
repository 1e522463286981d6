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
