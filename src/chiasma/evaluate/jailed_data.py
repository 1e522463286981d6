"""Data for the jail: columns in shared memory, made once and shown to one child after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chiasma.data.dataset import Dataset
from chiasma.data.unscored import Unscored, unscored
from chiasma.evaluate.jail import Region, SharedArray
from chiasma.evaluate.jailed_work import COLUMN
from chiasma.store.folders import cache_folder

# Beyond this a column lies in a nameless file on the disk instead of in memory.
MOST_IN_MEMORY = 2**30


@dataclass
class JailedData:
    """What children of the jail are shown of one dataset.

    Attributes:
        manifest: Its description.
        columns: Its arrays, as inputs of the jail.
    """

    manifest: Mapping[str, Any]
    columns: Mapping[str, SharedArray]
    _shown: Unscored

    def restored(self, outputs: np.ndarray) -> np.ndarray:
        """Return outputs for ``select`` as children see it in the order of the dataset's own rows."""
        return self._shown.restored(outputs)

    def close(self) -> None:
        """Give the memory back."""
        for shared in self.columns.values():
            shared.close()


@dataclass
class JailedDatasets:
    """The dataset that was last shown, because the next trial is usually on the same one."""

    _dataset: Dataset | None = None
    _modalities: tuple[str, ...] = ()
    _data: JailedData | None = field(default=None)

    def shown(self, dataset: Dataset, modalities: Sequence[str]) -> JailedData:
        """Return what children are shown of a dataset."""
        wanted = tuple(sorted(modalities))
        if self._data is None or dataset is not self._dataset or wanted != self._modalities:
            if self._data is not None:
                self._data.close()
            self._data = _made(unscored(dataset, wanted))
            self._dataset, self._modalities = dataset, wanted
        return self._data


def _made(shown: Unscored) -> JailedData:
    columns: dict[str, SharedArray] = {}
    for name, column in shown.columns.items():
        folder = None
        if column.size > MOST_IN_MEMORY:
            cache_folder().mkdir(parents=True, exist_ok=True)
            folder = str(cache_folder())
        columns[COLUMN + name] = SharedArray(Region.of(column.dtype.str, *column.shape), folder=folder)
        column.fill(columns[COLUMN + name].array)
    return JailedData(shown.manifest, columns, shown)
