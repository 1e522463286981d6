"""Whether a model has learned something, however badly calibrated it is."""

import numpy as np
import torch
from torch import Tensor

from chiasma.adapt.measure import constant_loss, losses
from chiasma.data.signature import Target

ITERATIONS = 50
SMALL = 1e-6


def part_learned(logits: np.ndarray, labels: Tensor, target: Target) -> float:
    """Return by which part the loss, recalibrated, is below that of the best answer that is the same for all examples.

    A model that is trained with a focal loss, class weights or repeated classes ranks examples well and is yet far from
    their frequencies, so that its loss as it is can be above that of a constant. Here it may first be multiplied by one
    number, which is not negative, and each output shifted by one (Platt 1999, with one slope). The constant answer may
    choose the same shifts, so that what is left to the model is one slope: 0 says that it knows nothing, 1 all.

    Args:
        logits: ``[n C]``.
        labels: Of the same examples.
        target: Says which loss.
    """
    level = constant_loss(labels, target)
    if level <= SMALL or not np.isfinite(logits).all():
        return 0.0
    outputs = torch.tensor(logits, dtype=torch.float32)
    outputs = (outputs - outputs.mean(0)) / outputs.std(correction=0).clamp(min=SMALL)
    slope, shift = torch.zeros((), requires_grad=True), _best_constant(labels, target).requires_grad_()
    search = torch.optim.LBFGS([slope, shift], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = losses(slope * outputs + shift, labels, target).mean()
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
        best = loss().item()
    # The loss is convex in both: where the best slope is negative, the best one that is not is zero.
    return max(0.0, 1 - best / level) if slope.item() > 0 else 0.0


def _best_constant(labels: Tensor, target: Target) -> Tensor:
    """Return the output ``[C]`` with the least loss among those that are the same for all examples, about."""
    if target.task == "regression":
        return labels.float().mean(0)
    if target.task == "classification":
        return torch.log(torch.bincount(labels, minlength=target.outputs).float() / len(labels) + SMALL)
    part = labels.float().mean(0)
    return torch.log(part + SMALL) - torch.log(1 - part + SMALL)
