"""Regions that detectors left in HDF5 or LMDB, in the layouts in which they are handed on.

HDF5 holds either one row an image in ``features`` (``n N D``), ``image_id`` (``n``) and perhaps ``boxes`` (``n N 4``),
``image_w``, ``image_h`` and ``num_boxes`` (``n``), or one group an image of that name with the same names inside.
LMDB holds, as MMF writes it (``features_2020_10_01``), one pickled dictionary an image by its name, of ``features``
(``N D``) and perhaps ``bbox`` (``N 4``), ``image_width``, ``image_height`` and ``num_boxes``.

Boxes are in pixels there; they are divided by the size of their own image. Of a pickle nothing is ever called, and
nothing outside an HDF5 file is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.errors import DataError
from chiasma.data.array_pickles import parse_numbers_pickle
from chiasma.data.boxes import in_parts

FOLDERS = (".lmdb",)
"""Endings of features that may be folders."""

INSTALL = "pip install 'chiasma[features]'"

_NAMES: Mapping[str, tuple[str, ...]] = {
    "features": ("features",),
    "id": ("image_id", "image_ids", "id", "ids"),
    "boxes": ("boxes", "bbox"),
    "width": ("image_w", "image_width"),
    "height": ("image_h", "image_height"),
    "count": ("num_boxes",),
}


@dataclass(frozen=True)
class _Regions:
    """Regions of one image.

    Attributes:
        features: ``n D``.
        boxes: ``n 5`` in parts of the image, or None.
    """

    id: str
    features: np.ndarray
    boxes: np.ndarray | None


def tokens_file(path: Path) -> Path:
    """Return the file that changes when tokens do: of a folder of LMDB the one inside."""
    return path / "data.mdb" if path.is_dir() else path


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Return tokens, ids, masks and boxes of an HDF5 file.

    Raises:
        DataError: h5py is missing, the file is damaged, of another layout, or leads out of itself.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(f"Reading {path} needs h5py: {INSTALL}.") from None
    with _damage(path, OSError, RuntimeError), h5py.File(path, "r") as file:
        named = _found(file, path)
        if "features" in named:
            return _padded(list(_rows(named, path)), path)
        return _padded([_of_group(path, name, file) for name in file], path)


def read_lmdb(path: Path) -> dict[str, np.ndarray]:
    """Return tokens, ids, masks and boxes of an LMDB folder or file.

    Raises:
        DataError: lmdb is missing, the file is damaged or of another layout, or a value asks for code.
    """
    try:
        import lmdb
    except ImportError:
        raise DataError(f"Reading {path} needs lmdb: {INSTALL}.") from None
    regions: list[_Regions] = []
    with _damage(path, lmdb.Error):
        environment = lmdb.open(str(path), readonly=True, lock=False, subdir=path.is_dir(), readahead=False)
        with environment, environment.begin() as transaction:
            for key, value in transaction.cursor():
                # The list of all names, which the names themselves make superfluous.
                if bytes(key) != b"keys":
                    name = bytes(key).decode(errors="replace")
                    values = parse_numbers_pickle(bytes(value), name=f"{path}, {name!r},")
                    regions.append(_regions(path, name, _by_role(values)))
    return _padded(regions, path)


@contextmanager
def _damage(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a library raises on a damaged file, and what its values make of us, into one line."""
    try:
        yield
    except DataError:
        raise
    except (*errors, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"The feature file {path} is damaged: {_first_line(error)}") from None


def _rows(named: Mapping[str, Any], path: Path) -> Iterator[_Regions]:
    """Yield the images of a file with one row an image."""
    if "id" not in named:
        raise DataError(f"{path} holds 'features', but none of {', '.join(_NAMES['id'])}, which name its rows.")
    count = len(named["features"])
    for role, dataset in named.items():
        if len(dataset) != count:
            raise DataError(f"{path} has {count} rows of features, but {len(dataset)} of {role}.")
    names = [_text(name) for name in named["id"][()].tolist()]
    for row, name in enumerate(names):
        values = {role: dataset[row] for role, dataset in named.items() if role != "id"}
        yield _regions(path, name, values)


def _of_group(path: Path, name: str, file: Any) -> _Regions:
    group = _inside(file, name, path)
    if not hasattr(group, "keys"):
        raise DataError(f"{path} must hold 'features', or one group an image, but {name!r} is neither.")
    return _regions(path, name, {role: dataset[()] for role, dataset in _found(group, path).items()})


def _found(group: Any, path: Path) -> dict[str, Any]:
    """Return what of a group plays a role."""
    present = {role: next((name for name in names if name in group), None) for role, names in _NAMES.items()}
    return {role: _inside(group, name, path) for role, name in present.items() if name is not None}


def _inside(group: Any, name: str, path: Path) -> Any:
    """Return a member of a group.

    Raises:
        DataError: It lies in another file.
    """
    import h5py

    link = group.get(name, getlink=True)
    item = group[name] if isinstance(link, h5py.HardLink) else None
    elsewhere = isinstance(item, h5py.Dataset) and (item.external is not None or item.is_virtual)
    if item is None or elsewhere:
        raise DataError(f"{path}: {name!r} leads out of the file, which is not followed.")
    return item


def _by_role(values: Mapping[str, Any]) -> dict[str, Any]:
    present = {role: next((name for name in names if name in values), None) for role, names in _NAMES.items()}
    return {role: values[name] for role, name in present.items() if name is not None}


def _regions(path: Path, name: str, values: Mapping[str, Any]) -> _Regions:
    """Return the regions of one image, those that count, their boxes in parts of it.

    Raises:
        DataError: The image is named, and what is wrong with it.
    """
    features = np.asarray(values.get("features"))
    if features.ndim != 2 or features.dtype.kind != "f":
        found = f"{features.shape} of {features.dtype}"
        raise DataError(f"{path}: the features of {name!r} must be N x D floats, but are {found}.")
    said = values.get("count")
    count = len(features) if said is None else max(0, min(len(features), int(said)))
    with np.errstate(over="ignore"):
        halves = features[:count].astype(np.float16)
    return _Regions(name, halves, _boxes(path, name, values, count))


def _boxes(path: Path, name: str, values: Mapping[str, Any], count: int) -> np.ndarray | None:
    if values.get("boxes") is None:
        return None
    boxes = np.asarray(values["boxes"])
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) < count:
        raise DataError(f"{path}: the boxes of {name!r} must be {count} x 4 pixels, but are {boxes.shape}.")
    sides = [values.get(side) for side in ("width", "height")]
    if any(side is None or not float(side) > 0 for side in sides):
        raise DataError(f"{path}: {name!r} has boxes, but no size of its image ({', '.join(_NAMES['width'])}, ...).")
    width, height = (float(side) for side in sides if side is not None)
    return in_parts(boxes[:count], width=width, height=height)


def _padded(regions: Sequence[_Regions], path: Path) -> dict[str, np.ndarray]:
    """Return all images with as many places as the largest has regions; what it lacks is masked.

    Raises:
        DataError: There is no image, widths differ, or some have boxes and others have none.
    """
    if not regions:
        raise DataError(f"The feature file {path} holds no image.")
    first = regions[0]
    dim, with_boxes = first.features.shape[1], first.boxes is not None
    for each in regions:
        if each.features.shape[1] != dim or (each.boxes is not None) != with_boxes:
            raise DataError(
                f"{path}: {each.id!r} has features of width {each.features.shape[1]} "
                f"{_with(each.boxes is not None)} boxes, but {first.id!r} of {dim} {_with(with_boxes)}."
            )
    shape = (len(regions), max(1, *(len(each.features) for each in regions)))
    tokens, mask = np.zeros((*shape, dim), np.float16), np.zeros(shape, np.bool_)
    boxes = np.zeros((*shape, 5), np.float32)
    for row, each in enumerate(regions):
        count = len(each.features)
        tokens[row, :count], mask[row, :count] = each.features, True
        if each.boxes is not None:
            boxes[row, :count] = each.boxes
    names = np.array([each.id for each in regions])
    return {"tokens": tokens, "id": names, "mask": mask} | ({"boxes": boxes} if with_boxes else {})


def _with(there: bool) -> str:
    return "with" if there else "without"


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else f"{line}."
