"""Layers of pretrained encoders that do not learn yet."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from chiasma.model.encoders.layered import layered_in
from chiasma.train.design import Unfreezing


class Sleepers:
    """The parameters of a model that begin to learn later than the others.

    A sleeping parameter has no gradient, so that the optimiser leaves it and its state alone. It is as before between
    steps, so that averages, checkpoints and best weights have it like any other.

    Args:
        model: Whose parameters.
        rules: When layers wake up; None for no sleep.
        alone: No other rank waits for the gradient of every parameter, so that none need be computed for sleepers.
    """

    def __init__(self, model: nn.Module, rules: Unfreezing | None, *, alone: bool) -> None:
        self._rules = rules
        self._alone = alone
        named = dict(model.named_parameters())
        self._encoders = (
            []
            if rules is None
            else [
                (max(depths.values()), [(depth, named[name]) for name, depth in depths.items()])
                for depths in layered_in(model)
            ]
        )

    @contextmanager
    def asleep(self, progress: float) -> Iterator[None]:
        """Keep what sleeps at this part of the training from learning anything inside.

        Args:
            progress: The part of the training that is over.
        """
        sleeping = list(self._sleeping(progress))
        if self._alone:
            for parameter in sleeping:
                parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in sleeping:
                parameter.requires_grad_(True)
                parameter.grad = None

    def _sleeping(self, progress: float) -> Iterator[nn.Parameter]:
        if self._rules is None:
            return
        for deepest, parameters in self._encoders:
            awake = deepest - self._rules.asleep(deepest, progress=progress)
            yield from (parameter for depth, parameter in parameters if depth > awake)
