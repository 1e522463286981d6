"""What the ``steer`` split says while a model trains."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.dataset import MANIFEST, Dataset
from chiasma.store.folders import cache_folder
from chiasma.train.design import LoopSpec
from chiasma.train.devices import Precision
from chiasma.train.learner import Part
from chiasma.train.metrics import higher_is_better, measure
from chiasma.train.predicting import modalities_of, predict_logits
from chiasma.train.ranks import ALONE, Ranks


class Steering:
    """Measures a model on ``steer`` by the metric that decides.

    Args:
        data: The dataset.
        metric: The metric that decides.
        precision: Of matrix products.
        ranks: Who shares the rows; all get the outputs for all of them.

    Raises:
        DataError: There are no rows in ``steer``.
    """

    def __init__(self, data: Dataset, *, metric: str, precision: Precision, ranks: Ranks = ALONE) -> None:
        self.data = data
        self.metric = metric
        self.precision: Precision = precision
        self.ranks = ranks
        self.rows = rows_of(data, "steer")
        self.labels = data.labels(self.rows).numpy()

    def logits(self, model: nn.Module) -> np.ndarray:
        """Return the model's outputs on ``steer`` ``[n C]``."""
        if len(self.rows) < self.ranks.size:
            return predict_logits(model, self.data, self.rows, precision=self.precision)
        part = predict_logits(model, self.data, self.ranks.part(self.rows), precision=self.precision)
        return self.ranks.joined(part, count=len(self.rows))

    def metrics(self, logits: np.ndarray) -> dict[str, float]:
        """Return every metric that ``steer`` defines.

        Raises:
            DataError: The metric that decides is undefined on ``steer``: ``auroc`` where all rows have one class.
        """
        scale = self.data.target_scale
        metrics = measure(logits, self.labels, self.data.signature.target, target_scale=scale)
        if self.metric not in metrics:
            raise DataError(
                f"{self.metric} is undefined on the {len(self.rows)} rows of steer, whose labels do not vary enough. "
                f"Defined there: {', '.join(metrics)}. Choose one of these as metric, or give steer more rows."
            )
        return metrics

    def score(self, row: dict[str, float]) -> float:
        """Return the metric that decides, oriented so that more is better."""
        return row[self.metric] if higher_is_better(self.metric) else -row[self.metric]


def rows_of(data: Dataset, split: str) -> np.ndarray:
    """Return the rows of a split.

    Raises:
        DataError: There are none.
    """
    rows = data.rows(split)
    if not len(rows):
        raise DataError(f"Training needs rows in {split}, but {data.source} has none there.")
    return rows


def learnt_rows(data: Dataset, loop: LoopSpec) -> np.ndarray:
    """Return the rows of an epoch: ``train``, with ``steer`` and with rarer classes repeated where the loop says so.

    Raises:
        DataError: There are none.
        ConfigError: Classes are to be balanced where there are none.
    """
    rows = rows_of(data, "train")
    rows = np.concatenate([rows, rows_of(data, "steer")]) if loop.train_on_steer else rows
    return balanced(data, rows) if loop.balance else rows


def balanced(data: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return rows in which every class that occurs has as many as the largest; repetitions are spread evenly.

    Raises:
        ConfigError: The task is not one class out of C.
    """
    task = data.signature.target.task
    if task != "classification":
        raise ConfigError(f"train.balance needs one class an example, but the task of {data.source} is {task}.")
    labels = data.labels(rows).numpy()
    of_each = [rows[labels == each] for each in np.unique(labels)]
    most = max(len(own) for own in of_each)
    return np.sort(np.concatenate([own[np.arange(most) * len(own) // most] for own in of_each]))


def part_for(model: nn.Module, data: Dataset, rows: np.ndarray, *, device: torch.device) -> Part:
    """Return labels of some rows, and the inputs that a model reads of them, on a device."""
    return data.batch(rows, modalities=modalities_of(model)).to(device), data.labels(rows).to(device)


def opened(data: Dataset | str | Path, *, seed: int) -> Dataset:
    """Return a dataset from itself, its folder, or a source that is then prepared with the default settings."""
    if isinstance(data, Dataset):
        return data
    if (Path(data) / MANIFEST).is_file():
        return Dataset.open(data)
    # Late: pandas is slow to import, and workers get folders.
    from chiasma.data.manifest import DataSpec
    from chiasma.data.prepare import prepare

    return prepare(DataSpec.from_dict({"source": str(data)}), seed=seed, cache=cache_folder())[0]
