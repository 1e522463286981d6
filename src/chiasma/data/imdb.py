"""IMDB reviews (Maas et al. 2011, https://ai.stanford.edu/~amaas/data/sentiment) as folders or as one table.

The folders are the official ones: ``train/pos``, ``train/neg``, ``test/pos``, ``test/neg``, with a file
``ID_RATING.txt`` for each review. The table is a CSV file (also ``.gz``) with the columns
``split, id, rating, label, text, dup_group``. The rating decides the label, so that it is never an input.
"""

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chiasma.core.errors import DataError
from chiasma.data.records import SUFFIXES, BadLine, Records, read_records

COLUMNS = ("split", "id", "rating", "label", "text", "dup_group")
RATING = "rating"
GROUP = "dup_group"

_NAMES = {"neg": "negative", "pos": "positive"}
_LABELS = {"0": "negative", "1": "positive"} | _NAMES | {name: name for name in _NAMES.values()}
_UNLABELLED = "unsup"
_REVIEW = re.compile(r"(\d+)_(\d+)\.txt")
# Begins with a character that is rare: with the space before it, every space of 50,000 reviews would be tried.
_BREAKS = re.compile(r"(?:<br\s*/?>\s*)+", re.IGNORECASE)
_RATING_NOTE = (
    "The rating (1 to 4 is negative, 7 to 10 positive) is the label in disguise, so that it is never an input."
)


def is_imdb_folders(path: Path) -> bool:
    """Return whether a path has the four official folders, with reviews in the first."""
    parts = [path / split / label for split in ("train", "test") for label in _NAMES]
    return all(part.is_dir() for part in parts) and any(_REVIEW.fullmatch(file.name) for file in parts[0].iterdir())


def stamp_imdb_folders(folder: Path) -> str:
    """Return a hash of every review's place and text."""
    digest = hashlib.sha256()
    for path in _reviews(folder):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def read_imdb_folders(folder: Path) -> tuple[Records, list[str]]:
    """Read the labelled reviews of the official folders.

    Returns:
        The rows, and notes about what was changed or left out. Lines are counted through all files in order.
    """
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    bad: list[BadLine] = []
    for line, path in enumerate(_reviews(folder), start=1):
        match = _REVIEW.fullmatch(path.name)
        if match is None:
            place = path.relative_to(folder)
            bad.append(BadLine(line, "file name is not ID_RATING.txt", f"{place} is not named like 0_9.txt"))
            continue
        split, label = path.parts[-3:-1]
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")
        identity = f"{split}/{label}/{path.stem}"
        rows.append({"split": split, "id": identity, "rating": match[2], "label": _NAMES[label], "text": text})
        lines.append(line)
    rows, notes = _without_breaks(rows)
    unlabelled = folder / "train" / _UNLABELLED
    if unlabelled.is_dir():
        count = sum(1 for _ in unlabelled.glob("*.txt"))
        notes.append(f"train/{_UNLABELLED} has no labels, so its {count:,} reviews are left out.")
    return Records(COLUMNS[:-1], rows, lines, bad, stamp_imdb_folders(folder)), notes


def is_imdb_table(path: Path) -> bool:
    """Return whether a path is a CSV file with exactly these columns, or a folder whose only table is one."""
    return _table(path) is not None


def stamp_imdb_table(path: Path) -> str:
    """Return a hash of the table's bytes."""
    return hashlib.sha256(_found(path).read_bytes()).hexdigest()


def read_imdb_table(path: Path) -> tuple[Records, list[str]]:
    """Read the table; ids, which count within a split and label, are completed by both.

    Returns:
        The rows, and notes about what was changed or left out.

    Raises:
        DataError: The file is damaged.
    """
    records = read_records(_found(path))
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    bad = list(records.bad)
    unlabelled = 0
    for line, row in zip(records.lines, records.rows, strict=True):
        label = _LABELS.get(row["label"].strip().lower())
        if row["split"] == _UNLABELLED:
            unlabelled += 1
        elif label is None:
            bad.append(BadLine(line, "label is neither 0 nor 1", f"line {line}: label {row['label']!r}"))
        else:
            rows.append({**row, "label": label, "id": f"{row['split']}/{label[:3]}/{row['id']}_{row['rating']}"})
            lines.append(line)
    rows, notes = _without_breaks(rows)
    if unlabelled:
        notes.append(f"{unlabelled:,} rows of {_UNLABELLED} have no label and are left out.")
    return Records(records.columns, rows, lines, bad, records.stamp), notes


def _without_breaks(rows: list[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the rows with a space for each run of HTML line breaks, and what to say of it and of the ratings."""
    changed: list[Mapping[str, Any]] = [{**row, "text": _with_spaces(row["text"])} for row in rows]
    count = sum(before["text"] != after["text"] for before, after in zip(rows, changed, strict=True))
    notes = [_RATING_NOTE]
    if count:
        notes.append(f"HTML line breaks became spaces in {count:,} texts.")
    return changed, notes


def _with_spaces(text: str) -> str:
    """Return a text with a space for each run of line breaks and the white space around it."""
    *before, last = _BREAKS.split(text)
    return " ".join([*(part.rstrip() for part in before), last])


def _reviews(folder: Path) -> Iterator[Path]:
    """Yield the files of the four folders, in the order of their numbers."""
    for split in ("train", "test"):
        for label in _NAMES:
            yield from sorted((folder / split / label).glob("*.txt"), key=_by_number)


def _by_number(path: Path) -> tuple[int, str]:
    match = _REVIEW.fullmatch(path.name)
    return (int(match[1]) if match else -1, path.name)


def _table(path: Path) -> Path | None:
    """Return the table behind a path, or None where it is not in this layout."""
    if path.is_dir():
        tables = [entry for entry in path.iterdir() if entry.name.lower().removesuffix(".gz").endswith(SUFFIXES)]
        return _table(tables[0]) if len(tables) == 1 and tables[0].is_file() else None
    if not path.name.lower().endswith((".csv", ".csv.gz")) or not path.is_file():
        return None
    return path if set(_header(path)) == set(COLUMNS) else None


def _found(path: Path) -> Path:
    table = _table(path)
    if table is None:
        raise DataError(f"{path} has no table with the columns {', '.join(COLUMNS)}.")
    return table


def _header(path: Path) -> list[str]:
    """Return the names in the first line; none where it cannot be read."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            line = file.readline(4096)
    except (OSError, EOFError, zlib.error):
        return []
    return line.decode("utf-8-sig", errors="replace").strip().replace('"', "").split(",")
