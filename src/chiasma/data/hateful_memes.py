"""The folder layouts of the Hateful Memes challenge (Kiela et al. 2020, https://arxiv.org/abs/2005.04790).

``train.jsonl``, ``dev_seen.jsonl``, ``dev_unseen.jsonl``, ``test_seen.jsonl``, ``test_unseen.jsonl`` and ``img/``. The
two dev files are the select split, the two test files the test split. ``dev_unseen`` repeats 400 of the 500 ids of
``dev_seen``: a repeated id is one row. Files whose rows have no label at all (the challenge's hidden
ones) are left out with a note. The hub's copy (``neuralcatcher/hateful_memes``) has the same files; as Parquet, or
written again by the ``datasets`` library, it has ``train``, ``validation`` and ``test``, where the two dev files are
one after the other, and ids may have lost their leading zeros.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from chiasma.core.errors import DataError
from chiasma.data.hub_tables import split_tables
from chiasma.data.records import BadLine, Records, read_records, stamp_of_files
from chiasma.data.splits import SPLIT_NAMES

COLUMNS = {"id", "img", "text", "label"}

FILES = {
    "train.jsonl": "train",
    "validation.jsonl": "select",
    "dev.jsonl": "select",
    "dev_seen.jsonl": "select",
    "dev_unseen.jsonl": "select",
    "test.jsonl": "test",
    "test_seen.jsonl": "test",
    "test_unseen.jsonl": "test",
}


def is_hateful_memes(path: Path) -> bool:
    """Return whether a path is a folder in one of these layouts."""
    if not path.is_dir():
        return False
    if (path / "train.jsonl").is_file():
        return True
    tables = split_tables(path, suffix=".parquet").get("train", [])
    return bool(tables) and _columns(tables[0]) == COLUMNS


def stamp_hateful_memes(folder: Path) -> str:
    """Return a hash of the layout's files."""
    return stamp_of_files(folder, _files(folder))


def read_hateful_memes(folder: Path) -> tuple[Records, list[str]]:
    """Read all files of the layout into one table with a ``split`` column.

    Returns:
        The rows, and notes about what was repeated or left out. Lines are counted through all files in order.

    Raises:
        DataError: A file is damaged, or there is no labelled row.
    """
    rows: list[Mapping[str, Any]] = []
    bad: list[BadLine] = []
    notes: list[str] = []
    lines: list[int] = []
    seen: set[str] = set()
    offset = shortened = 0
    for name, split in _files(folder).items():
        records = read_records(folder / name)
        if all(row.get("label") is None for row in records.rows):
            notes.append(f"{name} has no labels, so its {len(records.rows):,} rows are left out.")
            continue
        identities = [_identity(row) for row in records.rows]
        shortened += sum(own != str(row.get("id")) for own, row in zip(identities, records.rows, strict=True))
        fresh = [index for own, index in _first_places(identities).items() if own not in seen]
        if repeated := len(records.rows) - len(fresh):
            whose = "earlier files" if seen & set(identities) else "its own"
            notes.append(f"{name} repeats {repeated:,} ids of {whose}; each is one row.")
        for index in fresh:
            rows.append({**records.rows[index], "id": identities[index], "split": split})
            lines.append(offset + records.lines[index])
            seen.add(identities[index])
        bad += [BadLine(offset + line.line, line.reason, f"{name} {line.detail}") for line in records.bad]
        offset += max([*records.lines, *(line.line for line in records.bad)])
    if shortened:
        notes.append(f"{shortened:,} ids had lost their leading zeros, which the names of their images still have.")
    if not rows:
        raise DataError(f"{folder} has the Hateful Memes layout, but no file in it has labels.")
    return Records(("id", "img", "text", "label", "split"), rows, lines, bad, stamp_hateful_memes(folder)), notes


def _files(folder: Path) -> dict[str, str]:
    """Return the split of each file that there is, in order."""
    if (folder / "train.jsonl").is_file():
        return {name: split for name, split in FILES.items() if (folder / name).is_file()}
    tables = split_tables(folder, suffix=".parquet")
    return {str(path.relative_to(folder)): SPLIT_NAMES[split] for split, paths in tables.items() for path in paths}


def _identity(row: Mapping[str, Any]) -> str:
    """Return a row's id; where it is the number of its image, with that number's leading zeros."""
    identity, stem = str(row.get("id")), PurePosixPath(str(row.get("img"))).stem
    return stem if identity.isdigit() and stem.isdigit() and int(identity) == int(stem) else identity


def _first_places(identities: Sequence[str]) -> dict[str, int]:
    """Return where each id stands first, in order."""
    places: dict[str, int] = {}
    for index, identity in enumerate(identities):
        places.setdefault(identity, index)
    return places


def _columns(path: Path) -> set[str]:
    try:
        return set(parquet.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return set()
