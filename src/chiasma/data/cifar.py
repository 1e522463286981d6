"""CIFAR-10 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html) as it is found in the wild.

Three layouts: Parquet as on the Hugging Face hub, the official Python pickles, and a folder of images for each class.
The official test images are the test split; all others are train. Labels are the names of the classes.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from chiasma.core.errors import DataError
from chiasma.data.array_pickles import read_array_pickle
from chiasma.data.image import read_header
from chiasma.data.records import BadLine, Records, hash_of_names, stamp_of_files

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""In the order of their numbers, 0 to 9."""

COLUMNS = ("id", "img", "label", "split")
_SIDE = 32
_TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST_BATCH = "test_batch"
_NAMES_IN_PICKLES = "batches.meta"
_NAMES_IN_JSON = "classes.json"
_IMAGES = (".png", ".jpg", ".jpeg")


def is_cifar10_parquet(path: Path) -> bool:
    """Return whether a path is a folder of train and test Parquet files with images and class numbers."""
    tables = {split: _tables(path, split) for split in ("train", "test")}
    return all(tables.values()) and any(_has_images(table) for split in tables.values() for table in split)


def stamp_cifar10_parquet(folder: Path) -> str:
    """Return a hash of the layout's files."""
    tables = [path.name for split in ("train", "test") for path in _tables(folder, split)]
    return stamp_of_files(folder, [_NAMES_IN_JSON, *tables])


def read_cifar10_parquet(folder: Path) -> tuple[Records, list[str]]:
    """Read all tables; images stay the encoded bytes that they are.

    Raises:
        DataError: A file is damaged, or its images or class names are not CIFAR-10's.
    """
    _check_class_names(_listed_names(folder), folder / _NAMES_IN_JSON)
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    bad: list[BadLine] = []
    line = 0
    for split in ("train", "test"):
        for place, (table, row, image, label) in enumerate(_parquet_rows(folder, split)):
            line += 1
            if label is not None and label not in range(len(CLASSES)):
                bad.append(BadLine(line, "label is not a class number", f"{table} row {row}: label {label}"))
                continue
            name = None if label is None else CLASSES[label]
            rows.append({"id": f"{split}-{place:05d}", "img": image, "label": name, "split": split})
            lines.append(line)
    if not (folder / _NAMES_IN_JSON).is_file():
        _check_size(rows, folder)
    return Records(COLUMNS, rows, lines, bad, stamp_cifar10_parquet(folder)), []


def is_cifar_pickles(path: Path) -> bool:
    """Return whether a path is the official folder of Python pickles, of CIFAR-10 or CIFAR-100."""
    return (path / _TRAIN_BATCHES[0]).is_file() or _is_cifar100(path)


def stamp_cifar_pickles(folder: Path) -> str:
    """Return a hash of the layout's files."""
    return stamp_of_files(folder, [*_TRAIN_BATCHES, _TEST_BATCH, _NAMES_IN_PICKLES])


def read_cifar_pickles(folder: Path) -> tuple[Records, list[str]]:
    """Read the five batches of train and the one of test.

    Raises:
        DataError: A batch is missing, damaged or asks for more than arrays, or the folder is CIFAR-100's.
    """
    if _is_cifar100(folder):
        raise DataError(
            f"{folder} holds CIFAR-100, but only CIFAR-10 is read from pickles. Write the images to files, with a "
            "manifest that names them."
        )
    missing = [name for name in (*_TRAIN_BATCHES, _TEST_BATCH) if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} has the layout of CIFAR-10's pickles, but lacks {', '.join(missing)}.")
    if (folder / _NAMES_IN_PICKLES).is_file():
        names = read_array_pickle(folder / _NAMES_IN_PICKLES).get("label_names")
        _check_class_names([_text(name) for name in names or ()], folder / _NAMES_IN_PICKLES)
    rows: list[Mapping[str, Any]] = []
    for split, batches in (("train", _TRAIN_BATCHES), ("test", (_TEST_BATCH,))):
        pairs = (pair for name in batches for pair in _batch(folder / name))
        for place, (image, label) in enumerate(pairs):
            rows.append({"id": f"{split}-{place:05d}", "img": image, "label": CLASSES[label], "split": split})
    return Records(COLUMNS, rows, range(1, len(rows) + 1), (), stamp_cifar_pickles(folder)), []


def is_cifar10_folders(path: Path) -> bool:
    """Return whether a path has ``train`` and ``test`` with exactly CIFAR-10's ten class folders each."""
    return all(_subfolders(path / split) == set(CLASSES) for split in ("train", "test"))


def stamp_cifar10_folders(folder: Path) -> str:
    """Return a hash of the images' names; their contents are watched like those of any image file."""
    return hash_of_names(_image_names(folder))


def read_cifar10_folders(folder: Path) -> tuple[Records, list[str]]:
    """List the images of all class folders.

    Raises:
        DataError: There are none.
    """
    names = _image_names(folder)
    if not names:
        raise DataError(f"{folder} has CIFAR-10's class folders, but no file in them ends in {', '.join(_IMAGES)}.")
    rows: list[Mapping[str, Any]] = []
    for name in names:
        split, label, file = name.split("/")
        rows.append({"id": f"{split}/{label}/{Path(file).stem}", "img": name, "label": label, "split": split})
    return Records(COLUMNS, rows, range(1, len(rows) + 1), (), hash_of_names(names)), []


def _tables(folder: Path, split: str) -> list[Path]:
    """Return ``train.parquet`` or the parts ``train-00000-of-00002.parquet``, in order."""
    whole = folder / f"{split}.parquet"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{split}-*.parquet"))


def _has_images(path: Path) -> bool:
    """Return whether the columns are the hub's: ``img`` with bytes, and ``label`` with whole numbers, alone."""
    try:
        schema = parquet.read_schema(path)
    except (pa.ArrowException, OSError):
        return False
    if set(schema.names) != {"img", "label"} or not pa.types.is_struct(schema.field("img").type):
        return False
    parts = {part.name for part in schema.field("img").flatten()}
    return "img.bytes" in parts and pa.types.is_integer(schema.field("label").type)


def _parquet_rows(folder: Path, split: str) -> Iterator[tuple[str, int, bytes | None, int | None]]:
    """Yield file, row, encoded image and class number."""
    for path in _tables(folder, split):
        try:
            table = parquet.read_table(path, columns=["img", "label"])
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path} is not a readable Parquet file of images and labels: {reason}") from None
        images = (None if image is None else image["bytes"] for image in table.column("img").to_pylist())
        labels = table.column("label").to_pylist()
        for row, (image, label) in enumerate(zip(images, labels, strict=True), start=1):
            yield path.name, row, image, label


def _listed_names(folder: Path) -> Sequence[Any] | None:
    """Return the class names beside the tables; None where there are none."""
    path = folder / _NAMES_IN_JSON
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from None
    return names if isinstance(names, list) else [names]


def _check_class_names(names: Sequence[Any] | None, path: Path) -> None:
    if names is not None and tuple(names) != CLASSES:
        shown = ", ".join(map(str, names[:12])) or "none"
        raise DataError(f"{path} must hold CIFAR-10's class names in order ({', '.join(CLASSES)}), but holds {shown}.")


def _check_size(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Refuse other data of the same columns, where nothing says what the class numbers mean."""
    first = next((row["img"] for row in rows if row["img"] is not None), None)
    if first is None:
        raise DataError(f"{folder} has the layout of CIFAR-10 in Parquet, but no image.")
    header = read_header(first, max_pixels=10**9)
    if (header.width, header.height) != (_SIDE, _SIDE):
        raise DataError(
            f"{folder} has no {_NAMES_IN_JSON} that says what its labels mean, and its images are not CIFAR-10's: the "
            f"first must be {_SIDE} x {_SIDE} pixels, but is {header.width} x {header.height}."
        )


def _is_cifar100(path: Path) -> bool:
    return all((path / name).is_file() for name in ("train", "test", "meta"))


def _batch(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yield ``32 32 3`` uint8 pixels and class numbers of one pickle."""
    batch = read_array_pickle(path)
    pixels, labels = batch.get("data"), batch.get("labels")
    width = 3 * _SIDE * _SIDE
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != width:
        got = pixels.shape if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{path} must hold 'data' of n x {width} bytes, but it is {got}.")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        got = len(labels) if isinstance(labels, list) else type(labels).__name__
        raise DataError(
            f"{path} must hold 'labels', a list of one for each of {len(pixels):,} images, but it is {got}."
        )
    wrong = next((label for label in labels if type(label) is not int or label not in range(len(CLASSES))), None)
    if wrong is not None:
        raise DataError(f"{path} must hold labels from 0 to {len(CLASSES) - 1}, but one is {wrong!r}.")
    yield from zip(pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), labels, strict=True)


def _subfolders(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir() if entry.is_dir()} if path.is_dir() else set()


def _image_names(folder: Path) -> list[str]:
    """Return ``split/class/file`` of every image, in order."""
    return [
        f"{split}/{label}/{path.name}"
        for split in ("train", "test")
        for label in CLASSES
        for path in sorted((folder / split / label).iterdir(), key=_natural)
        if path.suffix.lower() in _IMAGES
    ]


def _natural(path: Path) -> tuple[Any, ...]:
    """Order ``2.png`` before ``10.png``."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name))


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
