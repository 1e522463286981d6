"""A prepared dataset: memory-mapped columns in one folder, opened by the driver and by every worker alike.

The rows that may be seen come first; the sealed test rows come last, and their labels lie in a file of their own.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chiasma.core.errors import CorruptFileError, DataError, SealedTestError
from chiasma.core.files import sha256_file
from chiasma.core.opening import TestOpening
from chiasma.data.batch import Batch, Sample, Tokens
from chiasma.data.choices import restricted
from chiasma.data.preprocessing import TOKENIZER_FILE, Preprocessing, PreprocessingSpec
from chiasma.data.several import count_classes, parts_of
from chiasma.data.signature import ImageInput, Signature, TextInput, TokensInput
from chiasma.data.slices import read_slices
from chiasma.data.splits import SPLITS
from chiasma.data.strings import StringColumn

MANIFEST = "dataset.json"
TEST_LABELS = "test_labels.npy"
_HASHED_BYTES = 64 * 2**20


class Dataset:
    """Rows of images, texts and labels, ready for a model. Use :meth:`open` or :func:`chiasma.data.prepare.prepare`.

    Attributes:
        folder: Where it lies.
        key: Equal exactly for the same source, settings and seed.
        fingerprint: Hash of the sealed test rows alone, so that openings of one test split are counted together
            whatever else was changed.
        sensitive: Reports show no examples.
        source: What was read.
    """

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], columns: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.folder = folder
        self._columns = columns
        self.key: str = manifest["key"]
        self.fingerprint: str = manifest["fingerprint"]
        self.sensitive: bool = manifest["sensitive"]
        self.source: str = manifest["source"]
        self._spec = PreprocessingSpec.from_dict(manifest["preprocessing"])
        self._image_root = None if manifest["image_root"] is None else Path(manifest["image_root"])
        self._splits = self._load("splits")
        self._labels = self._load("labels")
        self._groups = self._load("groups")
        self._contents = self._load("contents")
        self._allowed = self._load("allowed") if self._has("allowed") else None
        self._slice_columns: Sequence[tuple[str, Sequence[str]]] = manifest.get("slices", ())
        self._test_labels: np.ndarray | None = None
        self._index = {name: self._load(f"{name}.index") for name in manifest["parts"]}
        self._data = {name: self._load(f"{name}.data") for name in self.signature.inputs}

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = False) -> "Dataset":
        """Open a prepared dataset.

        Args:
            folder: What ``prepare`` wrote.
            verify: Also compare the hashes of all files up to 64 MiB, not only the sizes.

        Raises:
            DataError: There is no prepared dataset.
            CorruptFileError: A file is not the one that was written.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise DataError(f"{folder} holds no prepared dataset: it has no {MANIFEST}.")
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except ValueError as error:
            raise CorruptFileError(f"{folder / MANIFEST} is damaged: {error}.") from None
        for name, (size, digest) in manifest["files"].items():
            path = folder / name
            actual = path.stat().st_size if path.is_file() else -1
            if actual != size:
                raise CorruptFileError(f"{path} must have {size:,} bytes, but has {max(actual, 0):,}.")
            if verify and size <= _HASHED_BYTES and sha256_file(path) != digest:
                raise CorruptFileError(f"{path} is not the file that was written: its SHA-256 differs.")
        return cls(folder, manifest)

    @classmethod
    def of_columns(cls, manifest: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> "Dataset":
        """Return a dataset that lies in memory: what :func:`chiasma.data.unscored.unscored` took out of another."""
        return cls(Path("/nonexistent"), manifest, columns)

    @property
    def signature(self) -> Signature:
        """Return what a model's shape depends on."""
        return self._spec.signature

    @cached_property
    def content_key(self) -> str:
        """Return a hash of every row's content, split and known label, in order; other settings leave it alone."""
        parts = (self._contents, self._splits, np.ascontiguousarray(self._labels))
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:20]

    @property
    def target_scale(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return mean and standard deviation ``[C]`` of each quantity in train; None where there are no quantities.

        Beside quantities, outputs of other tasks have mean 0 and deviation 1.
        """
        if self._spec.target_mean is None or self._spec.target_deviation is None:
            return None
        return np.array(self._spec.target_mean), np.array(self._spec.target_deviation)

    @cached_property
    def class_counts(self) -> np.ndarray | None:
        """Return how many train rows have each class or label, ``int64 [C]``; None where there are no classes."""
        return count_classes(self._labels[self.rows("train")], self.signature.target)

    @cached_property
    def labelled(self) -> tuple[int, ...]:
        """Return how many train rows have a label, of each task."""
        labels = self._labels[self.rows("train")]
        return tuple(int(part.of(labels)[0].sum()) for part in parts_of(self.signature.target))

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of ``train``, ``steer`` or ``select``, in the order of the source.

        Raises:
            SealedTestError: ``split`` is ``test``.
            ValueError: It is none of the four.
        """
        if split == "test":
            raise SealedTestError(
                "The test split is sealed; only test_rows(opening) gives it, with an opening from the ledger."
            )
        if split not in SPLITS:
            raise ValueError(f"split must be one of train, steer, select, but is {split!r}.")
        return np.flatnonzero(self._splits == SPLITS.index(split))

    @property
    def test_count(self) -> int:
        """Return how many rows are sealed."""
        return len(self._splits) - len(self._labels)

    @property
    def test_groups(self) -> int:
        """Return how many independent groups are sealed."""
        return len(np.unique(self._groups[len(self._labels) :]))

    def test_rows(self, opening: TestOpening) -> np.ndarray:
        """Return the row numbers of the test split; from now on :meth:`labels` knows them.

        Raises:
            SealedTestError: The opening was recorded for another dataset.
            CorruptFileError: The file of test labels is not the one that was written.
        """
        if opening.fingerprint != self.fingerprint:
            raise SealedTestError(
                f"This opening is for test split {opening.fingerprint}, but the dataset's is {self.fingerprint}."
            )
        if self._test_labels is None:
            expected = json.loads((self.folder / MANIFEST).read_text())["files"][TEST_LABELS][1]
            if sha256_file(self.folder / TEST_LABELS) != expected:
                raise CorruptFileError(
                    f"{self.folder / TEST_LABELS} is not the file that was written: its SHA-256 differs."
                )
            self._test_labels = np.load(self.folder / TEST_LABELS, allow_pickle=False)
        return np.arange(len(self._labels), len(self._splits))

    def labels(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Return ``int64 [B]`` classes, or ``float32 [B C]`` memberships or standardised quantities.

        Of several tasks ``float32 [B columns]``, one task beside the other, NaN where a row has no label for it.

        Raises:
            SealedTestError: A row is of the test split, which was not opened.
            IndexError: A row number is negative, which would reach the test split from behind.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        known = len(self._labels)
        if (chosen < 0).any():
            raise IndexError(f"row numbers must not be negative, but one is {chosen.min()}.")
        if not (chosen >= known).any():
            return torch.from_numpy(self._labels[chosen])
        if self._test_labels is None:
            raise SealedTestError("The labels of the test split are sealed; open it with test_rows(opening) first.")
        every = np.concatenate([self._labels, self._test_labels])
        return torch.from_numpy(every[chosen])

    def groups(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return each row's group: rows that show the same image, or were said to belong together, share one."""
        return self._groups[np.asarray(rows, dtype=np.int64)]

    def contents(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return 64 bits of the hash of each row's image and text; they are the same in another file or split."""
        return self._contents[np.asarray(rows, dtype=np.int64)]

    def restricted(self, logits: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return outputs of some rows ``[... n C]`` in which answers that a row cannot have are impossible."""
        if self._allowed is None:
            return logits
        return restricted(logits, self._allowed[np.asarray(rows, dtype=np.int64)])

    @cached_property
    def slices(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Return by column and value which of all rows have it: the columns by which results are shown apart."""
        return read_slices(self.folder, self._slice_columns)

    def batch(self, rows: Sequence[int] | np.ndarray, *, modalities: Collection[str] | None = None) -> Batch:
        """Return the model inputs of some rows.

        Args:
            rows: Row numbers ``[B]``.
            modalities: Those that will be used; the others are not read. None for all.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        inputs: dict[str, Tensor | Tokens] = {}
        present: dict[str, Tensor] = {}
        for name, kind in self.signature.inputs.items():
            if modalities is not None and name not in modalities:
                continue
            index = self._index[name][chosen]
            there = torch.from_numpy(index >= 0)
            present[name] = there
            values = torch.from_numpy(np.take(self._data[name], np.maximum(index, 0), axis=0))
            if isinstance(kind, TextInput):
                inputs[name] = values.long() if bool(there.all()) else values.long() * there[:, None]
                continue
            floats = values.float()
            if isinstance(kind, ImageInput):
                floats.div_(255.0)
            if not bool(there.all()):
                floats[~there] = 0.0
            inputs[name] = floats if isinstance(kind, ImageInput) else self._tokens(name, floats, index, there)
        return Batch(inputs, present, tuple(self._ids[chosen].tolist()))

    def _tokens(self, name: str, x: Tensor, index: np.ndarray, there: Tensor) -> Tokens:
        kind = self.signature.inputs[name]
        assert isinstance(kind, TokensInput)
        places = np.maximum(index, 0)
        mask = there[:, None].expand(-1, kind.count).clone()
        if name in self._masks:
            mask &= torch.from_numpy(self._masks[name][places])
            x = x.masked_fill(~mask[..., None], 0.0)
        boxes = torch.from_numpy(self._boxes[name][places]) * mask[..., None] if kind.boxes else None
        return Tokens(x, mask, boxes)

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Return the rows' ids."""
        return self._ids[np.asarray(rows, dtype=np.int64)].tolist()

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Return the rows' texts; an empty string where there is none."""
        if "text" not in self._index:
            return [""] * len(rows)
        index = self._index["text"][np.asarray(rows, dtype=np.int64)]
        return [self._texts[int(place)] if place >= 0 else "" for place in index]

    def image_paths(self, rows: Sequence[int] | np.ndarray) -> list[Path | None]:
        """Return the rows' image files; None where there is no image or it never was a file."""
        if self._image_root is None or "image_name" not in self._index:
            return [None] * len(rows)
        index = self._index["image_name"][np.asarray(rows, dtype=np.int64)]
        return [self._image_root / self._image_names[int(place)] if place >= 0 else None for place in index]

    def images(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the prepared pixels, ``B H W 3`` uint8; black where there is no image.

        Raises:
            DataError: The dataset has no decoded images.
        """
        if not isinstance(self.signature.inputs.get("image"), ImageInput):
            raise DataError(
                f"The dataset {self.source} has no decoded images (its image input is ready-made, or absent)."
            )
        index = self._index["image"][np.asarray(rows, dtype=np.int64)]
        pixels = self._data["image"][np.maximum(index, 0)]
        pixels[index < 0] = 0
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Return the model inputs of new samples, prepared as these rows were."""
        return self.preprocessing().encode(samples)

    def preprocessing(self) -> Preprocessing:
        """Return what must be saved with a model so that it can predict without this folder."""
        path = self.folder / TOKENIZER_FILE
        return Preprocessing(self._spec, path.read_text() if path.is_file() else None)

    @cached_property
    def _ids(self) -> np.ndarray:
        if self._columns is not None:
            return np.array([str(row) for row in range(len(self._splits))], dtype=object)
        column = StringColumn.open(self.folder, "ids")
        return np.array(column.take(range(len(column))), dtype=object)

    @cached_property
    def _texts(self) -> StringColumn:
        return StringColumn.open(self.folder, "texts")

    @cached_property
    def _image_names(self) -> StringColumn:
        return StringColumn.open(self.folder, "image_names")

    @cached_property
    def _masks(self) -> dict[str, np.ndarray]:
        return {name: self._load(f"{name}.mask") for name in self._data if self._has(f"{name}.mask")}

    @cached_property
    def _boxes(self) -> dict[str, np.ndarray]:
        return {name: self._load(f"{name}.boxes") for name in self._data if self._has(f"{name}.boxes")}

    def _has(self, name: str) -> bool:
        return name in self._columns if self._columns is not None else (self.folder / f"{name}.npy").is_file()

    def _load(self, name: str) -> np.ndarray:
        if self._columns is not None:
            return self._columns[name]
        if not name.endswith(".data"):
            return np.load(self.folder / f"{name}.npy", allow_pickle=False)
        # As a plain array: NumPy's memmap class makes every access slower.
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
