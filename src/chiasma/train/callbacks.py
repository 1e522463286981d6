"""Callbacks look at a training and say what should happen; the trainer does it.

They have four powers and no others: edit the model, scale learning rates, regulate the training, stop. And they may
say something to whoever watches.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from torch import Tensor, nn

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec
from chiasma.train.design import TrainingSpec
from chiasma.train.ranks import Ranks
from chiasma.train.regulation import Regulation


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
class Regulate:
    """Set everything that regulates the training, from now on and in place of what was set before.

    Attributes:
        regulation: The whole of it.
        reason: For whoever watches; empty to say nothing.
    """

    regulation: Regulation
    reason: str = ""


@dataclass(frozen=True)
class Stop:
    """End the training after this step; the reason becomes ``Fit.stopped``."""

    reason: str


@dataclass(frozen=True)
class Say:
    """Tell whoever watches; nothing is changed."""

    words: str


Action = EditModel | ScaleLearningRate | Regulate | Stop | Say


def words_for_watchers(action: Action) -> str:
    """Return what whoever watches is told of an action, or nothing; why a training stopped is told at its end."""
    match action:
        case EditModel(reason=words) | Regulate(reason=words) | Say(words=words):
            return words
        case ScaleLearningRate() | Stop():
            return ""


class Callback(ABC):
    """Decides after each step. All its memory is in ``state_dict``, so that a resumed training decides alike.

    Attributes:
        name: Unique among the callbacks of a training.
    """

    name: str

    @abstractmethod
    def review(self, moment: Moment) -> Sequence[Action]:
        """Return what should happen now; nothing is changed here but the callback's own memory.

        Where several processes train together, only the leading one is asked, and the others are told.
        """

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


def by_name(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Return the callbacks of one training by name.

    Raises:
        ValueError: Two share a name.
    """
    named = {callback.name: callback for callback in callbacks}
    if len(named) != len(callbacks):
        names = ", ".join(callback.name for callback in callbacks)
        raise ValueError(f"Callbacks of one training must have different names, but got {names}.")
    return named


def check_carried_out(training: TrainingSpec, callbacks: Mapping[str, Callback]) -> None:
    """Raise ConfigError where no callback carries out what a design asks for while it trains."""
    for what in ("growth", "controller"):
        if getattr(training, what) is not None and what not in callbacks:
            raise ConfigError(
                f"The design has a section {what}, which a callback carries out: give the trainer "
                "callbacks=chiasma.adapt.callbacks.callbacks_of(design, data, seed=seed)."
            )


def actions_told(callback: Callback, moment: Moment, ranks: Ranks) -> Sequence[Action]:
    """Return what a callback asks for: the leading rank asks it, the others are told."""
    if ranks.alone:
        return callback.review(moment)
    said = [_document(action) for action in callback.review(moment)] if ranks.leads else None
    return [_action(document) for document in ranks.told(said)]


def _document(action: Action) -> dict[str, Any]:
    """Return an action as plain JSON."""
    values = {field.name: getattr(action, field.name) for field in fields(action)}
    plain = {name: value.to_dict() if isinstance(value, Spec) else value for name, value in values.items()}
    return {"action": type(action).__name__, **plain}


def _action(document: Mapping[str, Any]) -> Action:
    """Return what :func:`_document` wrote."""
    kind = next(kind for kind in get_args(Action) if kind.__name__ == document["action"])
    values = {field.name: document[field.name] for field in fields(kind)}
    if kind is Regulate:
        values["regulation"] = Regulation.from_dict(values["regulation"])
    return kind(**values)


class TensorCallback(Callback):
    """A callback whose memory holds tensors too; they lie beside the weights in a checkpoint."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors from which :meth:`load_tensors` continues exactly; the names may differ over time."""

    @abstractmethod
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`tensors`; called after :meth:`load_state_dict`."""
