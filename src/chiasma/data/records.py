"""Rows as they stand in a file: JSON lines, CSV, TSV or Parquet, compressed or not. No column has a meaning yet."""

import csv
import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from chiasma.core.errors import DataError
from chiasma.core.files import sha256_file

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class BadLine:
    """A line that is not a row."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Records:
    """The rows of one file.

    Attributes:
        columns: Names in the order in which they first appear.
        rows: One mapping a row; a missing value is None or no key.
        lines: The line each row came from, counted from 1; for Parquet, the row.
        bad: Lines that are not rows.
        stamp: SHA-256 of the file's bytes.
    """

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[int]
    bad: Sequence[BadLine] = ()
    stamp: str = field(default="")

    @property
    def total(self) -> int:
        """Return how many rows there are, readable or not."""
        return len(self.rows) + len(self.bad)


def read_records(path: Path) -> Records:
    """Read a table file; lines that cannot be read are set aside, not guessed.

    Raises:
        DataError: The file is missing, empty, of an unknown kind, or damaged as a whole.
    """
    if not path.exists():
        raise DataError(f"The manifest {path} does not exist.{_neighbours(path)}")
    if path.is_dir():
        raise DataError(
            f"{path} is a folder in no layout that is known here (docs/datasets.md lists them); name the manifest file "
            f"itself.{_neighbours(path / 'x')}"
        )
    name = path.name.lower().removesuffix(".gz")
    reader = _reader(Path(name).suffix, path)
    data = path.read_bytes()
    try:
        payload = gzip.decompress(data) if path.name.lower().endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"The manifest {path} is damaged: {error}.") from None
    records = reader(payload, path)
    if not records.total:
        raise DataError(f"The manifest {path} is empty: it has no rows.")
    stamp = hashlib.sha256(data).hexdigest()
    return Records(records.columns, records.rows, records.lines, records.bad, stamp)


def _reader(suffix: str, path: Path) -> Callable[[bytes, Path], Records]:
    readers: dict[str, Callable[[bytes, Path], Records]] = {
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".csv": _read_csv,
        ".tsv": _read_tsv,
        ".parquet": _read_parquet,
    }
    if suffix not in readers:
        raise DataError(
            f"The manifest {path} must end in one of {', '.join(SUFFIXES)} (or .gz of these), not {suffix!r}."
        )
    return readers[suffix]


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Nor does the folder {path.parent}."
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in SUFFIXES or entry.suffix == ".gz")
    return f" Tables beside it: {', '.join(names[:5])}." if names else ""


def _read_json_lines(payload: bytes, path: Path) -> Records:
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    bad: list[BadLine] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(payload.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(number, "not valid JSON", f"line {number}: {error}"))
            continue
        if not isinstance(row, dict):
            bad.append(BadLine(number, "not a JSON object", f"line {number} holds {type(row).__name__}"))
            continue
        columns.update(dict.fromkeys(row))
        rows.append(row)
        lines.append(number)
    return Records(tuple(columns), rows, lines, bad)


def _read_csv(payload: bytes, path: Path) -> Records:
    return _read_delimited(payload, ",", path)


def _read_tsv(payload: bytes, path: Path) -> Records:
    return _read_delimited(payload, "\t", path)


def _read_delimited(payload: bytes, delimiter: str, path: Path) -> Records:
    """Read every cell as text, so that ids keep their leading zeros; an empty cell is a missing value."""
    text = payload.decode("utf-8-sig", errors="surrogateescape")
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=False)
    header = next(reader, [])
    if len(set(header)) != len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise DataError(f"The header of {path} must name each column once, but has {', '.join(twice)} more than once.")
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    bad: list[BadLine] = []
    start = reader.line_num + 1
    for cells in reader:
        line, start = start, reader.line_num + 1
        if len(cells) == len(header):
            rows.append(dict(zip(header, cells, strict=True)))
            lines.append(line)
        elif cells:
            detail = f"line {line} has {len(cells)} cells, but the header has {len(header)}"
            bad.append(BadLine(line, "wrong number of cells", detail))
    return Records(tuple(header), rows, lines, bad)


def _read_parquet(payload: bytes, path: Path) -> Records:
    try:
        table = parquet.read_table(io.BytesIO(payload))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"The manifest {path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    rows = table.to_pylist()
    return Records(tuple(table.column_names), rows, list(range(1, len(rows) + 1)))


def stamp_of_files(folder: Path, names: Iterable[str]) -> str:
    """Return a hash of the bytes of those of the named files that exist."""
    present = [name for name in names if (folder / name).is_file()]
    return hash_of_names(f"{name} {sha256_file(folder / name)}" for name in present)


def hash_of_names(names: Iterable[str]) -> str:
    """Return a hash of names in their order."""
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()


def records_from_frame(frame: pd.DataFrame) -> Records:
    """Return the rows of a pandas frame; what pandas calls missing becomes None."""
    columns = {str(name): [_plain(value) for value in frame[name]] for name in frame.columns}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    digest = hashlib.sha256(repr(list(columns)).encode())
    for values in columns.values():
        digest.update(repr([_stamp(value) for value in values]).encode())
    return Records(tuple(columns), rows, list(range(1, len(rows) + 1)), (), digest.hexdigest())


def _plain(value: Any) -> Any:
    if pd.api.types.is_scalar(value):
        return None if pd.isna(value) else getattr(value, "item", lambda: value)()
    return value


def _stamp(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return value
