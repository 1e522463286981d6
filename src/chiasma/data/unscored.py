"""A dataset for somebody who is scored on it: everything to learn from, and of ``select`` the inputs alone.

Ids, groups, file names and the order of the rows can tell a label too (a folder a class, a table sorted by class). So
ids are numbers, groups are gone, test rows are left out, and the rows of ``select`` are shuffled by a key that only
somebody with their labels has.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasma.core.rng import numpy_rng
from chiasma.data.dataset import Dataset
from chiasma.data.splits import SPLITS

ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Unscored:
    """What is handed over, and what is kept.

    Attributes:
        manifest: For :meth:`chiasma.data.dataset.Dataset.of_columns`.
        columns: For the same, by name: dtype, shape and how to fill an array with it.
        order: Which row of ``select`` each shuffled one is ``[n]``; never handed over.
    """

    manifest: Mapping[str, Any]
    columns: Mapping[str, "Column"]
    order: np.ndarray

    def restored(self, outputs: np.ndarray) -> np.ndarray:
        """Return outputs for the shuffled rows of ``select`` in the order of its rows."""
        found = np.empty_like(outputs)
        found[self.order] = outputs
        return found


@dataclass(frozen=True)
class Column:
    """A column that is made where it is wanted, without a copy in between."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fill: Callable[[np.ndarray], None]

    @property
    def size(self) -> int:
        """Return its bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def unscored(dataset: Dataset, modalities: Collection[str]) -> Unscored:
    """Return what of a dataset may be shown to a module that is scored on it.

    Args:
        dataset: The whole.
        modalities: Those that will be read.
    """
    select = dataset.rows("select")
    labels = dataset.labels(np.arange(len(dataset._labels))).numpy().copy()
    key = int.from_bytes(hashlib.sha256(labels[select].tobytes() + dataset.key.encode()).digest()[:7], "big")
    order = numpy_rng(key, "unscored").permutation(len(select))
    seen = np.arange(len(labels))
    seen[select] = select[order]
    labels[select] = 0
    columns = {
        "splits": _ready(np.asarray(dataset._splits[: len(labels)])),
        "labels": _ready(labels),
        "groups": _ready(np.zeros(len(labels), dtype=np.int64)),
        "contents": _ready(np.zeros(len(labels), dtype=np.uint64)),
    }
    for name in modalities:
        columns |= dict(_of_modality(dataset, name, seen))
    spec = dataset._spec
    inputs = {name: spec.signature.inputs[name] for name in sorted(modalities)}
    narrow = spec.model_copy(update={"signature": spec.signature.model_copy(update={"inputs": inputs})})
    manifest = {
        "key": dataset.key,
        "fingerprint": "",
        "sensitive": True,
        "source": "the rows it was given",
        "image_root": None,
        "parts": sorted(modalities),
        "preprocessing": narrow.to_dict(),
    }
    return Unscored(manifest, columns, order)


def _of_modality(dataset: Dataset, name: str, seen: np.ndarray) -> Iterator[tuple[str, Column]]:
    """Yield index and storage, with what ``select`` reads moved behind the rest in its shuffled order."""
    index = dataset._index[name][seen]
    is_select = dataset._splits[: len(seen)] == SPLITS.index("select")
    asked = np.concatenate([index[~is_select], index[is_select]])
    places, first = np.unique(asked[asked >= 0], return_index=True)
    storage = places[np.argsort(first)]
    renumbered = np.full(max(len(dataset._data[name]), 1), -1, dtype=index.dtype)
    renumbered[storage] = np.arange(len(storage), dtype=index.dtype)
    yield f"{name}.index", _ready(np.where(index >= 0, renumbered[np.maximum(index, 0)], -1).astype(index.dtype))
    yield f"{name}.data", _taken(dataset._data[name], storage)
    for part, found in (("mask", dataset._masks), ("boxes", dataset._boxes)):
        if name in found:
            yield f"{name}.{part}", _taken(found[name], storage)


def _ready(array: np.ndarray) -> Column:
    def fill(place: np.ndarray) -> None:
        place[...] = array

    return Column(array.dtype, array.shape, fill)


def _taken(array: np.ndarray, rows: np.ndarray) -> Column:
    """Return some rows of an array; at least one, because absent parts are read from the first."""
    rows = rows if len(rows) else np.zeros(1, dtype=np.int64)

    def fill(place: np.ndarray) -> None:
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            place[start : start + ROWS_AT_A_TIME] = array[rows[start : start + ROWS_AT_A_TIME]]

    return Column(array.dtype, (len(rows), *array.shape[1:]), fill)
