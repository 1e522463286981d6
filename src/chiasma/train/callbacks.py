"""Callbacks look at a training and say what should happen; the trainer does it.

They have three powers and no others: edit the model, scale learning rates, stop.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Moment:
    """What a callback sees after each step; to look at, never to change.

    Attributes:
        step: Steps taken so far.
        total_steps: Steps planned.
        epoch: Passes over the train split so far.
        loss: Train loss of the step.
        gradient_norm: Norm of its gradient before clipping.
        rate: Its learning rate.
        metrics: What was just measured on ``steer``; None after a step without evaluation.
        history: All evaluations so far.
        model: The model as it is now.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float
    gradient_norm: float
    rate: float
    metrics: Mapping[str, float] | None
    history: Sequence[Mapping[str, float]]
    model: nn.Module


@dataclass(frozen=True)
class EditModel:
    """Have the callback's own ``edit_model`` called with this edit.

    Attributes:
        edit: Plain JSON that says what to change; a resumed training repeats it to rebuild the model.
        reason: For whoever watches; empty to say nothing.
    """

    edit: Mapping[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class ScaleLearningRate:
    """Multiply the scheduled rate of parts of the model from now on.

    Attributes:
        factors: By the beginning of parameter names: ``{"fusion": 0.5}``. The longest match counts; a part that is not
            named keeps its factor.
    """

    factors: Mapping[str, float]


@dataclass(frozen=True)
class Stop:
    """End the training after this step; the reason becomes ``Fit.stopped``."""

    reason: str


Action = EditModel | ScaleLearningRate | Stop


class Callback(ABC):
    """Decides after each step. All its memory is in ``state_dict``, so that a resumed training decides alike.

    Attributes:
        name: Unique among the callbacks of a training.
    """

    name: str

    @abstractmethod
    def review(self, moment: Moment) -> Sequence[Action]:
        """Return what should happen now; nothing is changed here but the callback's own memory."""

    @abstractmethod
    def edit_model(self, model: nn.Module, edit: Mapping[str, Any]) -> None:
        """Carry out one edit in place. The same edits in the same order must give the same parameter names and shapes.

        Torch's generators are seeded before each edit, so that a newcomer's first weights are reproducible.
        """

    @abstractmethod
    def state_dict(self) -> Mapping[str, Any]:
        """Return JSON from which :meth:`load_state_dict` continues exactly."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
