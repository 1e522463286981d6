"""Begin a training with the weights of another one, as far as they fit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from chiasma.store.checkpoint import Checkpoint, load_newest


def kept_training(folder: Path) -> Checkpoint:
    """Return a training that a worker kept.

    Raises:
        CorruptFileError: No checkpoint there verifies.
        FileNotFoundError: There is none.
    """
    checkpoint = load_newest(folder)
    if checkpoint is None:
        raise FileNotFoundError(f"No trained model was kept in {folder}.")
    return checkpoint


def kept_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a training that was kept; errors as in :func:`kept_training`."""
    return kept_training(folder).tensors("model")


@torch.no_grad()
def begin_with(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Copy into a model what has a place of the same name and shape there; return the names of what was copied."""
    own = model.state_dict()
    fitting = [name for name, value in weights.items() if name in own and own[name].shape == value.shape]
    for name in fitting:
        own[name].copy_(weights[name])
    return fitting
