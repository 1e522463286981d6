"""Gradient checkpointing: what happens inside a block is computed again in the backward pass instead of being kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chiasma.data.batch import Tokens

T = TypeVar("T")


class Passage(nn.Module):
    """Calls the blocks of a network; told to recompute, it keeps only what goes into each until the backward pass.

    Chen et al. 2016 (https://arxiv.org/abs/1604.06174), with every block a segment. A block sees the same random
    numbers and the same precision again, so loss and gradients are what they are without, bit for bit.

    Attributes:
        recompute: Set for a whole model by :func:`recompute_activations`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recompute = False

    def forward(self, block: Callable[..., T], *sequences: Tokens | None) -> T:
        """Return ``block(*sequences)``."""
        if not (self.recompute and torch.is_grad_enabled()):
            return block(*sequences)

        def run(*tensors: Tensor | None) -> T:
            return block(*(_tokens(tensors[place : place + 3]) for place in range(0, len(tensors), 3)))

        # Torch restores the generators of those devices alone whose tensors it is given by themselves.
        tensors = [tensor for each in sequences for tensor in _tensors(each)]
        return checkpoint(run, *tensors, use_reentrant=False)

    @contextmanager
    def through(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        """Do the same with the layers of a network that calls them itself, because somebody else has written it."""
        if not (self.recompute and torch.is_grad_enabled()):
            yield
            return
        try:
            for layer in layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
            yield
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)


def recompute_activations(model: nn.Module, recompute: bool) -> None:
    """Have every block of a model recomputed in the backward pass, or not; members that are born later do likewise."""
    for module in model.modules():
        if isinstance(module, Passage):
            module.recompute = recompute


def _tensors(tokens: Tokens | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return (None, None, None) if tokens is None else (tokens.x, tokens.mask, tokens.boxes)


def _tokens(tensors: tuple[Tensor | None, ...]) -> Tokens | None:
    x, mask, boxes = tensors
    return None if x is None or mask is None else Tokens(x, mask, boxes)
