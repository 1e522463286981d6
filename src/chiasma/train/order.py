"""Which rows each step sees: a function of seed and step, so that there is nothing to store."""

import math
from dataclasses import dataclass

import numpy as np

from chiasma.core.errors import ConfigError
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

    def check_shares(self, count: int, *, ranks: int) -> None:
        """Refuse batches that do not have a row for each rank in each micro-batch.

        Args:
            count: Micro-batches of a step.
            ranks: How many share each.

        Raises:
            ConfigError: Names what is too small.
        """
        smallest = len(self.rows) // self.steps_per_epoch
        if ranks > 1 and smallest < count * ranks:
            raise ConfigError(
                f"A batch has {smallest} rows at least, too few for {count} micro-batches on {ranks} ranks: raise "
                "train.batch_size, lower train.accumulation, or start fewer processes."
            )

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


@dataclass(frozen=True)
class Slice:
    """What one rank sees of a micro-batch.

    Attributes:
        rows: Row numbers ``[n]``.
        start: Place of the first of them in the step.
    """

    rows: np.ndarray
    start: int


def micro_batches(rows: np.ndarray, count: int, *, rank: int = 0, ranks: int = 1) -> list[Slice]:
    """Return one rank's slices of a step that is cut into up to ``count`` micro-batches of nearly equal size.

    Args:
        rows: All rows of the step ``[n]``.
        count: Micro-batches; none is empty.
        rank: Which rank.
        ranks: How many share each micro-batch.
    """
    slices, start = [], 0
    for part in np.array_split(rows, min(count, len(rows))):
        shares = np.array_split(part, ranks)
        slices.append(Slice(shares[rank], start + sum(len(share) for share in shares[:rank])))
        start += len(part)
    return slices


def evaluation_steps(*, total_steps: int, evaluations: int) -> frozenset[int]:
    """Return after how many steps to evaluate: evenly spaced, and always after the last."""
    return frozenset(math.ceil(total_steps * (index + 1) / evaluations) for index in range(evaluations))
