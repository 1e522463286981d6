"""The gradient of the loss with respect to the learning rate, seen in passing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chiasma.train.optim import trainable

# Of a larger parameter only about so many entries are looked at: a whole table of embeddings costs more than it says.
LARGEST = 1 << 14
PARTS = ("encoders", "fusion", "trunk", "head")
WHOLE = "all"


@dataclass(frozen=True)
class Slope:
    """How the last displacement of a part's weights lies to the gradient after it.

    Attributes:
        product: Their inner product. Divided by the learning rate of the displacement, it is the derivative of the loss
            with respect to that rate.
        cosine: Minus the cosine of their angle: above 0, a larger rate would have been better.
    """

    product: float
    cosine: float


class Slopes:
    """Sees hypergradients: it remembers where the weights are, then how they moved, then compares with a gradient.

    With ``theta' = theta - rate * u`` the derivative of ``loss(theta')`` with respect to the rate is ``-g' u``: the
    gradient after the step times the step itself, divided by the rate (Baydin et al. 2018, equation 2). Unlike there,
    the displacement is that of several steps together, as if the rate had been the same in all and the path straight:
    that of one is mostly the noise of its batch, which all but drowns the answer. Clipping
    changes the length of a gradient and not its angle. Of large parameters evenly spread rows are looked at and count
    for the rest. One copy of what is looked at is held for two steps.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._moved = False

    def look(self, model: nn.Module, *, left: int, period: int) -> dict[str, Slope] | None:
        """Do what is due after a step, and return what was seen at the end of each period, else None.

        Args:
            model: After the step, with the step's gradients.
            left: Steps until the period ends.
            period: Steps from one look to the next; all but two of them are displaced together.
        """
        if left == period - 1:
            self.remember(model)
        elif left == 1:
            self.displaced(model)
        return self.read(model) if left == 0 else None

    @torch.no_grad()
    def remember(self, model: nn.Module) -> None:
        """Note where the weights are."""
        self._held = {name: _seen(parameter.detach()).clone() for name, parameter in trainable(model).items()}
        self._moved = False

    @torch.no_grad()
    def displaced(self, model: nn.Module) -> None:
        """Note how they have moved since; forget everything where the model was edited meanwhile."""
        now = {name: _seen(parameter.detach()) for name, parameter in trainable(model).items()}
        if {name: value.shape for name, value in self._held.items()} != {
            name: value.shape for name, value in now.items()
        }:
            self.forget()
            return
        self._held = {name: value - self._held[name].to(value.device) for name, value in now.items()}
        self._moved = True

    @torch.no_grad()
    def read(self, model: nn.Module) -> dict[str, Slope] | None:
        """Compare with the gradients that the weights have now, part by part and in all; None if nothing was noted."""
        if not self._moved:
            return None
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, parameter in trainable(model).items():
            moved = self._held.get(name)
            gradient = None if parameter.grad is None else _seen(parameter.grad)
            if moved is not None and gradient is not None and moved.shape == gradient.shape:
                part = name.partition(".")[0]
                weight = math.sqrt(parameter.numel() / max(1, gradient.numel()))
                pair = (_flat(gradient, weight), _flat(moved.to(gradient.device), weight))
                pairs.setdefault(part if part in PARTS else WHOLE, []).append(pair)
        self.forget()
        if not pairs:
            return None
        names = list(pairs)
        sums = torch.stack([_sums(pairs[name]) for name in names]).double().cpu()
        found = {name: _slope(row) for name, row in zip(names, sums, strict=True)}
        return {**found, WHOLE: _slope(sums.sum(0))}

    def forget(self) -> None:
        """Drop what was noted."""
        self._held, self._moved = {}, False

    def tensors(self) -> dict[str, Tensor]:
        """Return what is held."""
        return dict(self._held)

    def load(self, tensors: Mapping[str, Tensor], *, moved: bool) -> None:
        """Continue from :meth:`tensors`."""
        self._held, self._moved = dict(tensors), moved

    @property
    def moved(self) -> bool:
        """Return whether displacements are held rather than places."""
        return self._moved


def _seen(value: Tensor) -> Tensor:
    """Return a tensor, or evenly spread rows of a large one, without copying."""
    stride = -(-value.numel() // LARGEST)
    return value if stride <= 1 or value.ndim == 0 else value[:: min(stride, len(value))]


def _flat(value: Tensor, weight: float) -> Tensor:
    """Return the entries in one row, heavier where each stands for several."""
    flat = value.flatten().float()
    return flat if weight == 1.0 else weight * flat


def _sums(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the inner product of gradients and displacements and the squares of both ``[3]``."""
    g, m = (torch.cat(each) for each in zip(*pairs, strict=True))
    return torch.stack([torch.dot(g, m), torch.dot(g, g), torch.dot(m, m)])


def _slope(sums: Tensor) -> Slope:
    product, gradients, moves = (float(each) for each in sums)
    size = math.sqrt(gradients) * math.sqrt(moves)
    if not math.isfinite(product) or not math.isfinite(size) or size == 0:
        return Slope(0.0, 0.0)
    return Slope(product, max(-1.0, min(1.0, -product / size)))
