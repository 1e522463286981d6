"""Outputs of a model for many rows, in batches."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from chiasma.data.batch import Batch
from chiasma.data.dataset import Dataset
from chiasma.model.multimodal import MultimodalModel
from chiasma.train.devices import Precision, autocast

ROWS_AT_A_TIME = 256


def predict_logits(
    model: nn.Module,
    data: Dataset | Iterable[Batch],
    rows: np.ndarray | None = None,
    *,
    batch_size: int = ROWS_AT_A_TIME,
    precision: Precision = "float32",
) -> np.ndarray:
    """Return the model's outputs as float32 ``[n C]``, computed where the model is, in evaluation mode.

    Answers that a row of a dataset cannot have are impossible in them.

    The model's training mode is as before afterwards.

    Args:
        model: Whose outputs are wanted.
        data: A dataset, or ready batches.
        rows: Which rows of the dataset ``[n]``; None with ready batches.
        batch_size: Rows at a time.
        precision: Of matrix products.

    Raises:
        ValueError: ``rows`` is missing for a dataset or given for ready batches, or there is nothing to predict.
    """
    if isinstance(data, Dataset):
        if rows is None:
            raise ValueError("predict_logits needs the rows of a dataset, but rows is None.")
        batches = dataset_batches(data, rows, batch_size=batch_size, modalities=modalities_of(model))
    else:
        batches = data
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        outputs = []
        for batch in batches:
            with autocast(device, precision):
                logits = model(batch.to(device)).logits
            outputs.append(logits.float().cpu().numpy())
    if not outputs:
        raise ValueError("predict_logits needs at least one row, but got none.")
    found = np.concatenate(outputs)
    return data.restricted(found, rows) if isinstance(data, Dataset) and rows is not None else found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and back into the mode it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def dataset_batches(
    data: Dataset, rows: np.ndarray, *, batch_size: int, modalities: Collection[str] | None = None
) -> Iterator[Batch]:
    """Yield the rows of a dataset in batches, in order."""
    for start in range(0, len(rows), batch_size):
        yield data.batch(rows[start : start + batch_size], modalities=modalities)


def modalities_of(model: nn.Module) -> Collection[str] | None:
    """Return the modalities a model reads, or None for all: a third party's model does not say."""
    if not isinstance(model, MultimodalModel) or model.spec.whole is not None:
        return None
    return tuple(model.spec.encoders)
