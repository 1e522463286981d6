"""How much memory a training takes on its device, said before it begins."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from chiasma.data.signature import Signature
from chiasma.model.memory import PassMemory, at_the_very_most, pass_memory
from chiasma.train.design import SGD, Design, OptimSpec
from chiasma.train.devices import PRECISIONS, Precision
from chiasma.train.predicting import ROWS_AT_A_TIME


@dataclass(frozen=True)
class TrainingMemory:
    """What a training takes at its fullest moments, in bytes.

    Attributes:
        parameters: How many numbers are learned.
        weights: Of the model, with its buffers.
        optimiser: The moments that the optimiser keeps of each parameter.
        copies: Averages of the weights, and the best weights so far.
        inputs: The examples of a step.
        gradients: At the fullest moment of a step.
        activations: Everything else that is alive at that moment.
        stored: What a forward pass leaves behind for the backward pass, by part of the model.
        evaluating: All that is taken at the fullest moment of an evaluation; 0 where there are none.
    """

    parameters: int
    weights: int
    optimiser: int
    copies: int
    inputs: int
    gradients: int
    activations: int
    stored: Mapping[str, int]
    evaluating: int

    @property
    def learning(self) -> int:
        """Return all that is taken at the fullest moment of a step."""
        return self.weights + self.optimiser + self.copies + self.inputs + self.gradients + self.activations

    @property
    def total(self) -> int:
        """Return what the device must have."""
        return max(self.learning, self.evaluating)


def training_memory(
    design: Design,
    signature: Signature,
    *,
    precision: Precision = "float32",
    device: str = "cpu",
    evaluated_rows: int = ROWS_AT_A_TIME,
) -> TrainingMemory:
    """Return what a training takes, from shapes alone: nothing is computed and nothing large is taken for it.

    Of a model that grows, this is what it takes at first. What the device's driver and libraries take for themselves,
    and the prepared data that the host maps, are not counted.

    Args:
        design: What is trained, and how.
        signature: What the data look like.
        precision: Of matrix products.
        device: ``cpu`` or ``cuda``.
        evaluated_rows: How many rows there are to evaluate on; no more than so many are looked at at a time.
    """
    loop = design.training.loop
    rows = -(-loop.batch_size // loop.accumulation)
    dtype = PRECISIONS[precision]
    step = pass_memory(
        design.model,
        signature,
        rows=rows,
        accumulating=loop.accumulation > 1,
        recompute=loop.recompute,
        precision=dtype,
        device=device,
    )
    optimiser = step.learned * _moments(design.training.optim)
    best = 0 if loop.train_on_steer else step.learned + step.buffers
    copies = best + (step.learned if loop.ema else 0)
    gradients, activations = _fullest(step, accumulating=loop.accumulation > 1)
    evaluating = 0
    if not loop.train_on_steer:
        look = pass_memory(
            design.model,
            signature,
            rows=min(evaluated_rows, ROWS_AT_A_TIME),
            learning=False,
            precision=dtype,
            device=device,
        )
        # The last gradients are still there, and new best weights are copied before the old ones go.
        evaluating = step.weights + step.learned + optimiser + copies + max(look.inputs + look.most, best)
    return TrainingMemory(
        parameters=step.parameters,
        weights=step.weights,
        optimiser=optimiser,
        copies=copies,
        inputs=step.inputs * loop.accumulation,
        gradients=gradients,
        activations=activations,
        stored=step.stored,
        evaluating=evaluating,
    )


def is_small(design: Design, signature: Signature, *, limit: int) -> bool:
    """Return whether a training certainly takes less than a limit, without following a step of it."""
    loop = design.training.loop
    # To look at rows without learning from them takes far less than half.
    rows = max(ROWS_AT_A_TIME // 4, -(-loop.batch_size // loop.accumulation))
    return at_the_very_most(design.model, signature, rows=rows) < limit


def device_memory(device: torch.device) -> int:
    """Return the bytes that a device has: all of a graphics card's, of the host's what is free now."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().available


def _moments(optim: OptimSpec) -> int:
    """Return how many numbers an optimiser keeps of each parameter."""
    algorithm = optim.algorithm
    return int(algorithm.momentum > 0) if isinstance(algorithm, SGD) else 2


def _fullest(step: PassMemory, *, accumulating: bool) -> tuple[int, int]:
    """Return gradients and other tensors at the fullest moment: inside of the pass, or when all gradients are there."""
    if accumulating:
        return step.learned, step.most
    if step.most < step.learned:
        return step.learned, 0
    return step.gradients, step.most - step.gradients
