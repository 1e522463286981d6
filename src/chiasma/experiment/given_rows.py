"""Rows that are given in Python: a pandas frame or a list of dicts becomes samples, or a manifest on disk.

An image is a path, the bytes of an image file, a PIL image or an ``H W 3`` uint8 array.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from chiasma.core.errors import DataError
from chiasma.core.files import storage_errors, write_atomic
from chiasma.data.batch import Sample
from chiasma.data.image import decode, decode_file, from_array, to_rgb
from chiasma.data.roles import Columns, joined_text, resolve_roles

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class GivenRows:
    """A table that lives in memory.

    Attributes:
        columns: Names, in order.
        rows: One mapping a row; what is missing is None.
    """

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]

    def values(self, column: str) -> list[Any]:
        """Return one column."""
        return [row.get(column) for row in self.rows]


def given_rows(table: Any) -> GivenRows:
    """Read a pandas frame or a list of dicts.

    Raises:
        DataError: It is neither, or it is empty.
    """
    if isinstance(table, pd.DataFrame):
        names = [str(name) for name in table.columns]
        rows = [
            dict(zip(names, map(_known, values), strict=True)) for values in table.itertuples(index=False, name=None)
        ]
    elif isinstance(table, Sequence) and not isinstance(table, str) and all(isinstance(row, Mapping) for row in table):
        rows = [{str(name): _known(value) for name, value in row.items()} for row in table]
        names = list(dict.fromkeys(name for row in rows for name in row))
    else:
        raise DataError(
            "X must be the path of a manifest, a pandas DataFrame, or a list of dicts with image, text and label, "
            f"but got {_described(table)}."
        )
    if not rows:
        raise DataError("The table is empty: it has no rows.")
    return GivenRows(tuple(names), rows)


def samples_of(given: GivenRows, columns: Columns, *, image_dir: Path, max_pixels: int) -> list[Sample]:
    """Return the rows as samples to predict.

    Raises:
        DataError: An image cannot be read, or a column is missing.
    """
    roles = resolve_roles(given.columns, columns, labelled=False)
    return [
        Sample(str(place), _parts(row, roles, image_dir=image_dir, max_pixels=max_pixels))
        for place, row in enumerate(given.rows)
    ]


def write_manifest(
    given: GivenRows, columns: Columns, labels: Sequence[str], *, image_dir: Path, folder: Path
) -> tuple[Path, Path]:
    """Write rows with their labels as a manifest below ``folder``, once for equal content.

    Returns:
        The manifest, and the folder that its image names start from.

    Raises:
        DataError: An image cannot be read, or a column is missing.
        StorageError: The folder cannot be written to.
    """
    roles = resolve_roles(given.columns, columns, labelled=False)
    in_memory, root = _image_root(given, roles, image_dir)
    pictures: dict[str, bytes] = {}
    lines: list[dict[str, Any]] = []
    for place, (row, label) in enumerate(zip(given.rows, labels, strict=True)):
        line: dict[str, Any] = {"id": _identity(row, roles, place), "label": label}
        if roles["text"]:
            line["text"] = joined_text(row, roles["text"])
        image = row.get(roles["image"][0]) if roles["image"] else None
        if image is not None:
            line["image"] = _picture(image, image_dir, pictures) if in_memory else _relative(image, image_dir, root)
        for extra in ("split", "group"):
            name = getattr(columns, extra) or (extra if extra in given.columns else None)
            if name is not None and row.get(name) is not None:
                line[extra] = str(row[name])
        lines.append(line)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    return _store(place, text, pictures), place if in_memory else root


def _store(place: Path, text: str, pictures: Mapping[str, bytes]) -> Path:
    manifest = place / MANIFEST
    if manifest.is_file():
        return manifest
    with storage_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        write_atomic(place / name, data)
    # Last, so that a manifest that is there has all its images.
    write_atomic(manifest, text)
    return manifest


def _parts(
    row: Mapping[str, Any], roles: Mapping[str, tuple[str, ...]], *, image_dir: Path, max_pixels: int
) -> dict[str, np.ndarray | str]:
    parts: dict[str, np.ndarray | str] = {}
    text = joined_text(row, roles["text"])
    if text is not None:
        parts["text"] = text
    image = row.get(roles["image"][0]) if roles["image"] else None
    if image is not None:
        parts["image"] = np.asarray(_opened(image, image_dir, max_pixels))
    return parts


def _opened(image: Any, image_dir: Path, max_pixels: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, np.ndarray):
        return from_array(image)
    if isinstance(image, bytes):
        return decode(image, max_pixels=max_pixels)
    if isinstance(image, str | Path):
        return decode_file(image_dir / Path(image).expanduser(), max_pixels=max_pixels)
    kinds = "a path, bytes, a PIL image or a uint8 array"
    raise DataError(f"An image must be {kinds}, but got {type(image).__name__}.")


def _image_root(given: GivenRows, roles: Mapping[str, tuple[str, ...]], image_dir: Path) -> tuple[bool, Path]:
    """Return whether images are in memory, and else the deepest folder that holds all image files."""
    images = [image for image in given.values(roles["image"][0]) if image is not None] if roles["image"] else []
    if not all(isinstance(image, str | Path) for image in images):
        return True, image_dir
    folders = {str(_whole_path(image, image_dir).parent) for image in images}
    root = Path(os.path.abspath(image_dir))
    inside = all(Path(folder).is_relative_to(root) for folder in folders)
    return False, root if inside else Path(os.path.commonpath(folders))


def _relative(image: str | Path, image_dir: Path, root: Path) -> str:
    return str(_whole_path(image, image_dir).relative_to(root))


def _whole_path(image: str | Path, image_dir: Path) -> Path:
    """Return an absolute path; links are not followed, because an image folder may be one."""
    return Path(os.path.abspath(image_dir / Path(image).expanduser()))


def _picture(image: Any, image_dir: Path, pictures: dict[str, bytes]) -> str:
    """Keep an image's bytes under a name that is their hash."""
    if isinstance(image, str | Path):
        path = image_dir / Path(image).expanduser()
        if not path.is_file():
            raise DataError(f"The image {path} does not exist.")
        data, suffix = path.read_bytes(), path.suffix
    else:
        buffer = io.BytesIO()
        _opened(image, image_dir, 0).save(buffer, format="PNG", compress_level=1)
        data, suffix = buffer.getvalue(), ".png"
    name = hashlib.sha256(data).hexdigest()[:24] + suffix
    pictures[name] = data
    return name


def _identity(row: Mapping[str, Any], roles: Mapping[str, tuple[str, ...]], place: int) -> str:
    value = row.get(roles["id"][0]) if roles["id"] else None
    return f"row-{place:07d}" if value is None else str(value)


def _known(value: Any) -> Any:
    """Return None for what pandas calls missing."""
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


def _described(table: Any) -> str:
    shape = f" of shape {table.shape}" if hasattr(table, "shape") else ""
    return f"{type(table).__name__}{shape}"
