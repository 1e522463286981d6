"""A folder for each class: ImageNet (Deng et al. 2009) as ``train/WNID`` and ``val/WNID``, and any images kept so.

The folders of classes lie in folders of splits, or there are no splits. Where there is ``val`` and no ``test``, as in
ImageNet, whose test labels are secret, val is the sealed test split, so that figures compare with published ones. A
file may name the classes: ``LOC_synset_mapping.txt`` or ``classes.txt`` (a line ``FOLDER NAME``), ``classes.json`` or
``imagenet_class_index.json``.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasma.core.errors import DataError
from chiasma.data.records import SUFFIXES, Records, hash_of_names, stamp_of_files
from chiasma.data.splits import SPLIT_NAMES

IMAGES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
NAMES = ("LOC_synset_mapping.txt", "classes.txt", "classes.json", "imagenet_class_index.json")
COLUMNS = ("id", "img", "label", "split")
_LOOKED_AT = 50


def is_class_folders(path: Path) -> bool:
    """Return whether a path has at least two folders of images, in folders of splits or not, and no table."""
    if not path.is_dir() or any(entry.name.lower().removesuffix(".gz").endswith(SUFFIXES) for entry in path.iterdir()):
        return False
    return any(len([c for c in _folders(top) if _holds_images(c)]) >= 2 for top in _tops(path).values())


def stamp_class_folders(folder: Path) -> str:
    """Return a hash of the images' names and the classes' names; contents are watched like those of any image file."""
    return hash_of_names([stamp_of_files(folder, NAMES), *(name for name, _, _ in _images(folder))])


def read_class_folders(folder: Path) -> tuple[Records, list[str]]:
    """List the images of all class folders.

    Raises:
        DataError: A split holds images without class folders, or a file of class names cannot be used.
    """
    tops, notes = _tops(folder), []
    names = _class_names(folder)
    kinds = {SPLIT_NAMES[split] for split in tops if split is not None}
    if "select" in kinds and "test" not in kinds:
        notes.append("There is val and no test: val is the sealed test split, and select is cut from train.")
    rows: list[Mapping[str, Any]] = []
    for name, label, split in _images(folder):
        own = None if split is None else SPLIT_NAMES[split]
        own = "test" if own == "select" and "test" not in kinds else own
        rows.append(
            {"id": str(Path(name).with_suffix("")), "img": name, "label": names.get(label, label), "split": own}
        )
    unnamed = {label for _, label, _ in _images(folder)} - set(names)
    if names and unnamed:
        notes.append(f"{len(unnamed):,} class folders have no name and keep their own, such as {min(unnamed)}.")
    return Records(COLUMNS, rows, range(1, len(rows) + 1), (), stamp_class_folders(folder)), notes


def _tops(folder: Path) -> dict[str | None, Path]:
    """Return the folders that hold the folders of classes, by split; by None where there are no splits."""
    splits = {entry.name: entry for entry in _folders(folder) if entry.name.lower() in SPLIT_NAMES}
    found: dict[str | None, Path] = {name.lower(): splits[name] for name in sorted(splits, key=_split_order)}
    return found if "train" in {SPLIT_NAMES[split] for split in found if split} else {None: folder}


def _split_order(name: str) -> int:
    return list(SPLIT_NAMES).index(name.lower())


def _images(folder: Path) -> list[tuple[str, str, str | None]]:
    """Return name below the folder, class folder and split of every image, in order.

    Raises:
        DataError: A split has images that are in no class folder.
    """
    found: list[tuple[str, str, str | None]] = []
    for split, top in _tops(folder).items():
        classes = _folders(top)
        if split is not None and not classes and _holds_images(top):
            if SPLIT_NAMES[split] == "test":
                # ImageNet's own test images, whose labels are secret.
                continue
            raise DataError(
                f"{top} holds images without a folder for each class, so that they have no label. Sort them into the "
                "class folders that train has, or move them away."
            )
        for each in classes:
            prefix = each.relative_to(folder)
            files = sorted(entry.name for entry in os.scandir(each) if entry.name.lower().endswith(IMAGES))
            found += [(f"{prefix}/{file}", each.name, split) for file in files]
    return found


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _holds_images(path: Path) -> bool:
    """Return whether an image is among the first entries of a folder, which may have a million."""
    with os.scandir(path) as entries:
        return any(entry.name.lower().endswith(IMAGES) for _, entry in zip(range(_LOOKED_AT), entries, strict=False))


def _class_names(folder: Path) -> dict[str, str]:
    """Return the classes' names by folder; where two have one name, each with its folder."""
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        pairs = _pairs(path)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(f"{path} does not name a class folder and its name in each entry: {error}.") from None
    counts = Counter(name for _, name in pairs)
    return {own: name if counts[name] == 1 else f"{name} ({own})" for own, name in pairs}


def _pairs(path: Path) -> Sequence[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        content = json.loads(text)
        pairs = [tuple(v) if isinstance(v, list) else (k, v) for k, v in content.items()]
        return [(str(own), str(name).replace("_", " ")) for own, name in pairs]
    # Of several names for one thing, the first.
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(own, name.split(",")[0].strip()) for own, name in lines]
