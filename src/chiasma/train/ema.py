"""An exponential moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from chiasma.train.optim import trainable


class AverageWeights:
    """Polyak averaging with an exponential window (Izmailov et al. 2018 discuss why averages generalise).

    Early on the decay is ``(1 + updates) / (10 + updates)``, so that the random start is forgotten quickly;
    buffers such as running statistics are those of the model.

    Args:
        model: Whose trainable parameters are averaged.
        decay: The weight of the past in each update, once warm.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, *, updates: int) -> None:
        """Move towards the model's weights; ``updates`` is how many updates came before."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        move = get_ema_multi_avg_fn(decay)
        move(list(self.average.values()), list(trainable(model).values()), updates)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Lend the averages to the model, without copying; its own weights return afterwards, bit for bit."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def keep(self, model: nn.Module) -> None:
        """Give the averages to the model for good."""
        for name, parameter in trainable(model).items():
            parameter.copy_(self.average[name])

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take averages by name.

        Raises:
            ValueError: Names or shapes differ from the model's.
        """
        wanted = {name: tuple(value.shape) for name, value in self.average.items()}
        got = {name: tuple(value.shape) for name, value in state.items()}
        if wanted != got:
            differing = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
            name = differing[0]
            raise ValueError(f"The average of {name} must have shape {wanted.get(name)}, but has {got.get(name)}.")
        for name, value in state.items():
            self.average[name].copy_(value)

    def rekeyed(self, model: nn.Module) -> "AverageWeights":
        """Return averages for an edited model: kept by name where the shape is the same, else begun at its weights."""
        following = AverageWeights(model, self.decay)
        for name, value in following.average.items():
            kept = self.average.get(name)
            if kept is not None and kept.shape == value.shape:
                value.copy_(kept)
        return following

    def _swap(self, model: nn.Module) -> None:
        for name, parameter in trainable(model).items():
            parameter.data, self.average[name] = self.average[name], parameter.data
