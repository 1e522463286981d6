"""The weights of another training, to begin with."""

from pathlib import Path

from torch import Tensor

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
