"""A training in a checkpoint, and back."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from chiasma.data.signature import Signature
from chiasma.store.checkpoint import Checkpoint, save_checkpoint
from chiasma.train.callbacks import Callback, TensorCallback
from chiasma.train.design import Design
from chiasma.train.learner import Learner
from chiasma.train.state import Identity, TrainingState

# What older checkpoints did not say, because it was always so.
BEFORE_RANKS = {"ranks": 1}
_CALLBACK = "callback-"


@dataclass(frozen=True)
class Frame:
    """What stays the same over a training and is saved with it.

    Attributes:
        identity: What the training is of.
        environment: What its bits depend on beside that.
        signature: What the data looks like.
    """

    identity: Identity
    environment: Mapping[str, str | int]
    signature: Signature


def save_training(
    folder: Path,
    frame: Frame,
    *,
    design: Design,
    state: TrainingState,
    learner: Learner,
    best: Mapping[str, Tensor],
    callbacks: Mapping[str, Callback],
) -> None:
    """Write a checkpoint from which :func:`restore_training` continues to the same bits.

    Args:
        folder: Where the checkpoints of this training lie.
        frame: What does not change.
        design: What the model is now; true after edits.
        state: Where the training is.
        learner: Its tensors.
        best: The best weights so far, without frozen ones; empty before the first evaluation.
        callbacks: Those of the training; the tensors that they keep are saved too.

    Raises:
        NonFiniteError: A weight is NaN or infinite.
        StorageError: The disk is full, read-only or failing.
    """
    kept = {
        f"{_CALLBACK}{name}": each.tensors() for name, each in callbacks.items() if isinstance(each, TensorCallback)
    }
    tensors = {**learner.tensors(), "best": best, **kept}
    save_checkpoint(
        folder,
        state.step,
        tensors={name: group for name, group in tensors.items() if group},
        documents={
            "design": design.to_dict(),
            "signature": frame.signature.to_dict(),
            "state": {
                "identity": frame.identity.to_dict(),
                "environment": dict(frame.environment),
                "training": state.to_document(),
            },
        },
    )


def saved_state(checkpoint: Checkpoint, frame: Frame) -> TrainingState:
    """Return where the saved training is, after checking that it is this one.

    Raises:
        ConfigError: The checkpoint belongs to another training; names what differs.
    """
    document = checkpoint.documents["state"]
    frame.identity.check(document["identity"], where=str(checkpoint.path))
    _warn_if_moved(document["environment"], frame.environment, where=str(checkpoint.path))
    return TrainingState.from_document(document["training"])


def restore_tensors(checkpoint: Checkpoint, learner: Learner, *, scaler: Mapping[str, Any]) -> dict[str, Tensor]:
    """Load weights, moments and averages, and return the best weights so far."""
    groups = {name: checkpoint.tensors(name) for name in checkpoint.tensor_names}
    best = groups.pop("best", {})
    learner.load(groups, scaler=scaler)
    return {name: value.to(learner.device) for name, value in best.items()}


def restore_callbacks(checkpoint: Checkpoint, callbacks: Mapping[str, Callback], states: Mapping[str, Any]) -> None:
    """Have each callback continue from what it remembered."""
    for name, state in states.items():
        callback = callbacks[name]
        callback.load_state_dict(state)
        if isinstance(callback, TensorCallback):
            group = f"{_CALLBACK}{name}"
            callback.load_tensors(checkpoint.tensors(group) if group in checkpoint.tensor_names else {})


def _warn_if_moved(found: Mapping[str, Any], here: Mapping[str, Any], *, where: str) -> None:
    there = {**BEFORE_RANKS, **found}
    differing = [f"{name} {there.get(name)} there, {here[name]} here" for name in here if there.get(name) != here[name]]
    if differing:
        warnings.warn(
            f"{where} was saved in another environment ({'; '.join(differing)}): the training continues, "
            "but its last bits may differ from an uninterrupted one.",
            stacklevel=2,
        )
