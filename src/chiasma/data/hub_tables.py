"""Tables as the Hugging Face hub lays them out: one or several files for each split, often in ``data``."""

import re
from pathlib import Path

from chiasma.core.errors import DataError
from chiasma.data.splits import SPLIT_NAMES

PLACES = ("", "data", "default", "plain_text")
"""Folders below the dataset's own in which its tables are found."""

_NAME = re.compile(r"(?P<split>[A-Za-z]+?)(?:_(?:seen|unseen))?(?:[-_.]\d+.*)?")


def split_tables(folder: Path, *, suffix: str) -> dict[str, list[Path]]:
    """Return the files of each split, in order: ``train.parquet``, ``train-00000-of-00002-HASH.parquet``,
    ``train/0000.parquet``.

    Splits have their names in the files (``validation``, ``test``); files of other names are left alone.
    """
    for place in PLACES:
        top = folder / place
        found: dict[str, list[Path]] = {}
        if not top.is_dir():
            continue
        for path in sorted([*top.glob(f"*{suffix}"), *top.glob(f"*/*{suffix}")]):
            name = path.parent.name if path.parent != top else path.name.removesuffix(suffix)
            split = known_split(name)
            if split is not None:
                found.setdefault(split, []).append(path)
        if "train" in found:
            return {split: found[split] for split in SPLIT_NAMES if split in found}
    return {}


def known_split(name: str) -> str | None:
    """Return the split in the name of a file or folder, as the hub knows it, or None: ``dev_seen`` is ``dev``."""
    match = _NAME.fullmatch(name)
    return match["split"].lower() if match and match["split"].lower() in SPLIT_NAMES else None


def damaged(path: Path, error: Exception) -> DataError:
    """Return the error that says why a Parquet file cannot be read."""
    return DataError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0].rstrip('.')}.")
