"""Captions that are joined to the text, so that a text model reads what an image shows."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from chiasma.core.errors import CorruptFileError, DataError
from chiasma.core.files import read_json
from chiasma.core.spec import Spec
from chiasma.data.findings import Findings
from chiasma.data.published import Published
from chiasma.data.records import read_records
from chiasma.data.text import TEXT_SEPARATOR

CAPTION_NAMES = ("caption", "text")
ID_NAMES = ("id", "img", "image", "file_name")

ImageSource = Path | bytes | np.ndarray
"""An image file, the bytes of one, or ``H W 3`` uint8 pixels."""

Describe = Callable[[Sequence[ImageSource]], list[str | None]]
"""Returns a caption for each image; None for one that cannot be read."""


class Captions(Spec):
    """Where captions come from: exactly one of a column, a file and a model.

    Caption enrichment of Blaier et al. 2021 (https://aclanthology.org/2021.emnlp-main.738/): ``text [SEP] caption``.

    Attributes:
        column: A column of the manifest.
        file: JSON (an object of captions), JSON lines or CSV (columns ``id`` and ``caption``), by a row's id or the
            file name of its image, with or without ending.
        model: A BLIP model that writes captions, its name on the hub or its folder.
        longest: Most word pieces that the model writes.
    """

    column: str | None = Field(default=None, min_length=1)
    file: str | None = Field(default=None, min_length=1)
    model: Published | None = None
    longest: int = Field(default=30, ge=1, le=512)

    @model_validator(mode="after")
    def _exactly_one(self) -> "Captions":
        given = [name for name in ("column", "file", "model") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"captions come from one of column, file and model, but got {', '.join(given) or 'none'}")
        return self


def read_captions(path: Path) -> dict[str, str]:
    """Return the captions of a file by id.

    Raises:
        DataError: The file is missing or damaged, or has no columns of ids and captions.
    """
    if path.suffix == ".json":
        return _read_object(path)
    records = read_records(path)
    ids = [name for name in ID_NAMES if name in records.columns]
    texts = [name for name in CAPTION_NAMES if name in records.columns]
    if not ids or not texts:
        raise DataError(
            f"{path} must have a column of ids ({', '.join(ID_NAMES)}) and one of captions "
            f"({', '.join(CAPTION_NAMES)}), but has: {', '.join(records.columns)}."
        )
    return {str(row[ids[0]]): str(row[texts[0]]).strip() for row in records.rows if row.get(texts[0]) not in (None, "")}


def caption_for(known: Mapping[str, str], identity: str, image: str | None) -> str | None:
    """Return the caption of a row, by its id or its image's file name, with or without ending."""
    image = image or ""
    names = (identity, image, Path(image).name, Path(image).stem)
    return next((known[name] for name in names if name in known), None)


def with_caption(text: str | None, caption: str | None) -> str | None:
    """Return a text and a caption as one text."""
    return TEXT_SEPARATOR.join(part for part in (text, caption) if part) or None


def captioned(
    frame: pd.DataFrame,
    captions: Captions | None,
    findings: Findings,
    *,
    source_of: Callable[[str], ImageSource | None],
    describe: Describe | None,
) -> pd.DataFrame:
    """Return rows whose texts end with captions, as far as there are any; those without are counted.

    Args:
        frame: With columns ``id``, ``image`` and ``text``.
        captions: Where they come from; a column is a part of the text already.
        findings: What is counted goes there.
        source_of: Returns the image of a name; None where it leads out of its folder.
        describe: Writes captions.

    Raises:
        DataError: A file of captions cannot be read, or there is nobody who writes them.
    """
    if captions is None or captions.column is not None:
        return frame
    names: list[str | None] = [name if isinstance(name, str) else None for name in frame["image"]]
    if captions.file is not None:
        known = read_captions(Path(captions.file).expanduser())
        pairs = zip(frame["id"], names, strict=True)
        found = [caption_for(known, str(identity), image) for identity, image in pairs]
    else:
        found = _written(names, source_of, describe)
    without = sum(not caption for caption in found)
    if without:
        findings.counts["rows without a caption"] += without
    texts = [with_caption(text, caption) for text, caption in zip(frame["text"], found, strict=True)]
    return frame.assign(text=pd.Series(texts, dtype=object, index=frame.index))


def _written(
    names: Sequence[str | None], source_of: Callable[[str], ImageSource | None], describe: Describe | None
) -> list[str | None]:
    if describe is None:
        raise DataError("data.captions.model needs a writer of captions: chiasma.experiment.captions.captioner.")
    distinct = {name: source_of(name) for name in names if name is not None}
    readable = {name: source for name, source in distinct.items() if source is not None}
    written = dict(zip(readable, describe(list(readable.values())), strict=True))
    return [None if name is None else written.get(name) for name in names]


def _read_object(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise DataError(f"The captions {path} do not exist (data.captions.file).")
    try:
        found: Any = read_json(path)
    except (CorruptFileError, json.JSONDecodeError) as error:
        raise DataError(f"The captions {path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DataError(f'{path} must be an object of captions by id, such as {{"1": "a red bird"}}.')
    return {str(key): value.strip() for key, value in found.items() if value.strip()}
