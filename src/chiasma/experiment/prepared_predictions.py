"""Predictions for rows of a prepared dataset."""

import numpy as np

from chiasma.core.errors import DataError
from chiasma.data.dataset import Dataset
from chiasma.experiment.answers import PredictedRow
from chiasma.experiment.predict import answered
from chiasma.experiment.saved import SavedModel
from chiasma.train.predicting import predict_logits


def predict_prepared(saved: SavedModel, dataset: Dataset, rows: np.ndarray) -> list[PredictedRow]:
    """Return a prediction for each of a prepared dataset's rows, in order.

    Raises:
        DataError: The dataset is not prepared as the model expects.
    """
    if not saved.reads_as_prepared(dataset):
        raise DataError(f"{dataset.source} is prepared otherwise than for this model: other sizes, words or columns.")
    answers = answered(saved, predict_logits(saved.model, dataset, rows))
    return [PredictedRow(identity, answer) for identity, answer in zip(dataset.ids(rows), answers, strict=True)]
