"""Which column plays which role, none of which is guessed, and the values of a row in its role."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.core.spec import Spec, suggestion
from chiasma.data.captions import Captions
from chiasma.data.labels import LABEL_SEPARATOR, SeveralLabels, label_word
from chiasma.data.records import Records
from chiasma.data.text import TEXT_SEPARATOR

_DEFAULT_NAMES = {
    "id": ("id",),
    "image": ("img", "image"),
    "text": ("text",),
    "label": ("label",),
    "split": ("split",),
    "group": ("group",),
    "allowed": (),
}

_USUAL_NAMES = {
    "image": ("image_path", "img_path", "filename", "file_name", "file", "path", "photo", "picture", "image_id"),
    "text": ("question", "caption", "sentence", "review", "title", "content", "description", "body", "tweet"),
    "label": ("labels", "target", "answer", "class", "category", "y", "sentiment", "output", "gold", "rating"),
}
"""Names that are suggested in an error, never used by themselves."""


class Columns(Spec):
    """Which column plays which role; None (or no text column) means the role's default name, where there is one.

    Attributes:
        id: Default ``id``; rows are numbered where there is none.
        image: A file name below ``image_dir``; default ``img`` or ``image``.
        text: One or more columns, joined by the separator token; default ``text``.
        label: What is predicted; default ``label``. Several columns are several tasks of one model.
        split: Default ``split``.
        group: Rows that belong together and must not straddle splits; default ``group``.
        allowed: The classes among which a row's answer is chosen, a list or joined by ``|``: the choices that a
            question really has. Empty is all.
    """

    id: str | None = None
    image: str | None = None
    text: tuple[str, ...] = ()
    label: str | tuple[str, ...] | None = None
    split: str | None = None
    group: str | None = None
    allowed: str | None = None


def resolve_roles(columns: Sequence[str], wanted: Columns, *, labelled: bool = True) -> dict[str, tuple[str, ...]]:
    """Return the column names of each role; an empty tuple where the table has none.

    Args:
        columns: The table's columns.
        wanted: What the user mapped; every name must exist.
        labelled: Whether the split and label roles matter at all (not when predicting).

    Raises:
        DataError: A mapped column does not exist, a default is ambiguous, or there is neither image nor text.
    """
    roles: dict[str, tuple[str, ...]] = {}
    for role, defaults in _DEFAULT_NAMES.items():
        if not labelled and role in ("label", "split", "group"):
            continue
        mapped = getattr(wanted, role)
        names = _names(mapped) or tuple(n for n in defaults if n in columns)
        for name in names:
            if name not in columns:
                raise DataError(
                    f"data.columns.{role} is {name!r}, but the table has no such column."
                    f"{suggestion(name, list(columns))} Its columns: {', '.join(columns)}."
                )
        if role != "text" and len(names) > 1 and names != mapped:
            raise DataError(
                f"Both {' and '.join(names)} could be the {role}; say which: data.columns.{role}={names[0]}."
            )
        roles[role] = names
    if not roles["image"] and not roles["text"]:
        raise DataError(
            missing_role("text", columns).replace("no column named text", "no column named img, image or text")
        )
    return roles


def check_slices(slices: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse names of columns that there are not.

    Raises:
        DataError: One of the names in ``data.slices`` is not a column, or stands there twice.
    """
    for place, name in enumerate(slices):
        if name not in columns:
            known = f"Its columns: {', '.join(columns)}." if columns else "Built-in data have none to slice by."
            close = suggestion(name, list(columns))
            raise DataError(f"data.slices names {name!r}, but the table has no such column.{close} {known}")
        if name in slices[:place]:
            raise DataError(f"data.slices must name each column once, but names {name} twice.")


def _names(mapped: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (mapped,) if isinstance(mapped, str) else tuple(mapped or ())


def text_columns(names: tuple[str, ...], columns: Sequence[str], captions: Captions | None) -> tuple[str, ...]:
    """Return the columns of the text, with that of captions where they have one.

    Raises:
        DataError: There is no such column.
    """
    own = None if captions is None else captions.column
    if own is None or own in names:
        return names
    if own not in columns:
        raise DataError(
            f"data.captions.column is {own!r}, but the table has no such column.{suggestion(own, list(columns))} "
            f"Its columns: {', '.join(columns)}."
        )
    return (*names, own)


def missing_role(role: str, columns: Sequence[str]) -> str:
    close = [name for name in columns if name.lower() in _USUAL_NAMES.get(role, ())]
    hint = f" Perhaps data.columns.{role}={close[0]}?" if close else suggestion(role, list(columns))
    rule = f"The table has no column named {role}; name it with data.columns.{role}."
    return f"{rule}{hint} Its columns: {', '.join(columns)}."


def columns_by_role(
    records: Records, roles: Mapping[str, tuple[str, ...]], slices: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict[str, np.ndarray | bytes]]:
    """Return the table by roles, and the images that are in it instead of in files, by the names they get."""
    arrays: dict[str, np.ndarray | bytes] = {}
    rows = records.rows
    lines = list(records.lines)
    identities = [_identity(row, roles["id"], line) for row, line in zip(rows, lines, strict=True)]
    data: dict[str, list[Any]] = {
        "id": identities,
        "image": [_image(row, roles["image"], line, arrays) for row, line in zip(rows, lines, strict=True)],
        "text": [joined_text(row, roles["text"]) for row in rows],
        "label": [_label(row, roles["label"]) for row in rows],
        "split": [_word(row, roles["split"]) for row in rows],
        "group": [_word(row, roles["group"]) for row in rows],
        "allowed": [words_of(_value(row, roles["allowed"])) or None for row in rows],
        "slices": [tuple(words_of(row.get(name)) for name in slices) for row in rows],
        "line": lines,
    }
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in data.items()}), arrays


def joined_text(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the text columns of a row in one string, or None where all are empty."""
    parts = [str(row[name]) for name in names if row.get(name) not in (None, "")]
    return TEXT_SEPARATOR.join(parts) or None


def words_of(value: Any) -> tuple[str, ...]:
    """Return the words in a cell that may hold several: a list, or words joined by ``|``."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    parts = value.split(LABEL_SEPARATOR) if isinstance(value, str) else value
    parts = parts if isinstance(parts, list | tuple | np.ndarray) else [parts]
    return tuple(dict.fromkeys(word for part in parts if part is not None and (word := label_word(part))))


def row_identity(line: int) -> str:
    """Return the id of a row where the manifest has none."""
    return f"row-{line:07d}"


def _identity(row: Mapping[str, Any], names: Sequence[str], line: int) -> str | None:
    return row_identity(line) if not names else _word(row, names)


def _label(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the cell of the label column, or those of several together; None where there is nothing in them."""
    if len(names) < 2:
        return _value(row, names)
    several = tuple(_value(row, (name,)) for name in names)
    return None if all(value is None for value in several) else SeveralLabels(tuple(names), several)


def _value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    value = row.get(names[0]) if names else None
    return None if isinstance(value, str) and not value.strip() else value


def _word(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    value = _value(row, names)
    return None if value is None else str(value).strip()


def _image(
    row: Mapping[str, Any], names: Sequence[str], line: int, arrays: dict[str, np.ndarray | bytes]
) -> str | None:
    value = _value(row, names)
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
        # As Hugging Face's datasets writes images into Parquet.
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if isinstance(value, np.ndarray | bytes):
        name = f"array-{line:07d}"
        arrays[name] = value
        return name
    if isinstance(value, Mapping):
        raise DataError(f"Column {names[0]} holds {', '.join(value)} in each cell, not an image or a file name.")
    return None if value is None else str(value)
