"""The folder layout of the Hateful Memes challenge (Kiela et al. 2020, https://arxiv.org/abs/2005.04790).

``train.jsonl``, ``dev_seen.jsonl``, ``dev_unseen.jsonl``, ``test_seen.jsonl``, ``test_unseen.jsonl`` and ``img/``. The
two dev files are the select split, the two test files the test split. ``dev_unseen`` repeats 400 of the 500 ids of
``dev_seen``: a repeated id is one row. Files whose rows have no label at all (the challenge's hidden
ones) are left out with a note.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasma.core.errors import DataError
from chiasma.data.records import BadLine, Records, read_records, stamp_of_files

FILES = {
    "train.jsonl": "train",
    "dev.jsonl": "select",
    "dev_seen.jsonl": "select",
    "dev_unseen.jsonl": "select",
    "test.jsonl": "test",
    "test_seen.jsonl": "test",
    "test_unseen.jsonl": "test",
}


def is_hateful_memes(path: Path) -> bool:
    """Return whether a path is a folder in this layout."""
    return path.is_dir() and (path / "train.jsonl").is_file()


def stamp_hateful_memes(folder: Path) -> str:
    """Return a hash of the layout's files."""
    return stamp_of_files(folder, FILES)


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
    seen: dict[str, str] = {}
    offset = 0
    for name, split in FILES.items():
        if not (folder / name).is_file():
            continue
        records = read_records(folder / name)
        if all(row.get("label") is None for row in records.rows):
            notes.append(f"{name} has no labels, so its {len(records.rows):,} rows are left out.")
            continue
        fresh = [index for index, row in enumerate(records.rows) if str(row.get("id")) not in seen]
        if repeated := len(records.rows) - len(fresh):
            notes.append(f"{name} repeats {repeated:,} ids of earlier files; each is one row.")
        for index in fresh:
            rows.append({**records.rows[index], "split": split})
            lines.append(offset + records.lines[index])
            seen[str(records.rows[index].get("id"))] = name
        bad += [BadLine(offset + line.line, line.reason, f"{name} {line.detail}") for line in records.bad]
        offset += max([*records.lines, *(line.line for line in records.bad)])
    if not rows:
        raise DataError(f"{folder} has the Hateful Memes layout, but no file in it has labels.")
    return Records(("id", "img", "text", "label", "split"), rows, lines, bad, stamp_hateful_memes(folder)), notes
