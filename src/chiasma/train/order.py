"""Which rows each step sees: a function of seed and step, so that there is nothing to store."""

import math

import numpy as np

from chiasma.core.rng import numpy_rng


class DataOrder:
    """Shuffled epochs cut into batches that differ in size by at most one, so that no epoch ends on a tiny batch.

    All designs trained with one seed and batch size see the same rows in the same order.

    Args:
        rows: The row numbers of the train split ``[n]``.
        batch_size: The most rows a batch holds.
        seed: The seed of the training.
    """

    def __init__(self, rows: np.ndarray, *, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self.steps_per_epoch = math.ceil(len(rows) / batch_size)
        self._epoch = -1
        self._shuffled = rows

    def batch(self, step: int) -> np.ndarray:
        """Return the row numbers of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = numpy_rng(self.seed, "shuffle", epoch).permutation(len(self.rows))
            self._epoch, self._shuffled = epoch, self.rows[order]
        start, end = (position + end for end in (0, 1))
        return self._shuffled[
            start * len(self.rows) // self.steps_per_epoch : end * len(self.rows) // self.steps_per_epoch
        ]


def micro_batches(rows: np.ndarray, count: int) -> list[np.ndarray]:
    """Return ``rows`` cut into up to ``count`` parts of nearly equal size, none empty."""
    return [part for part in np.array_split(rows, count) if len(part)]


def evaluation_steps(*, total_steps: int, evaluations: int) -> frozenset[int]:
    """Return after how many steps to evaluate: evenly spaced, and always after the last."""
    return frozenset(math.ceil(total_steps * (index + 1) / evaluations) for index in range(evaluations))
