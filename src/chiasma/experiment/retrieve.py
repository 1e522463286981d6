"""Finding the best texts of an image, or the best images of a text, among those of another manifest."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from chiasma.core.errors import ConfigError, DataError
from chiasma.core.files import write_atomic
from chiasma.core.spec import Spec
from chiasma.data.batch import Sample
from chiasma.data.image import quiet_decoding
from chiasma.data.manifest import Columns
from chiasma.experiment.console import Console
from chiasma.experiment.predict import GivenManifest, PredictedRow
from chiasma.experiment.saved import SavedModel
from chiasma.train.retrieval import directions, nearest


class Match(Spec):
    """Something that was found.

    Attributes:
        id: Its row in the gallery.
        similarity: Cosine, 1 at best.
    """

    id: str
    similarity: float


@dataclass(frozen=True)
class RetrievedRow:
    """What was found for one query, the nearest first; why nothing, where it could not be read."""

    id: str
    matches: tuple[Match, ...]
    error: str | None = None


def retrieve(
    saved: SavedModel,
    queries: Path,
    *,
    against: Path,
    top: int,
    columns: Columns | None = None,
    image_dir: Path | None = None,
    console: Console,
) -> list[RetrievedRow]:
    """Return for each row of ``queries`` its best matches in ``against``, in order; rows that cannot be read say why.

    The queries have images or texts; what is searched is the gallery's other side.

    Args:
        saved: A contrastive model.
        queries: A manifest of images or of texts.
        against: A manifest with the other side.
        top: Matches a query.
        columns: Which columns of both hold what; naming the image or the text says which side the queries are.
        image_dir: What image paths are below; each manifest's own folder by default.
        console: Where progress goes.

    Raises:
        ConfigError: The model compares nothing, or the queries have both sides and none is named.
        DataError: A manifest cannot be read, or nothing in the gallery can.
    """
    task = saved.signature.target.task
    if task != "contrastive":
        raise ConfigError(f"--against needs a model that was trained with data.task=contrastive, but this is {task}.")
    asked = GivenManifest.read(saved, queries, columns=columns, image_dir=image_dir)
    side = _side(asked, columns)
    other = next(name for name in saved.signature.target.labels if name != side)
    # What names the queries' side is no column of the gallery.
    others = None if columns is None else columns.model_copy(update={side: Columns.model_fields[side].default})
    gallery = GivenManifest.read(saved, against, columns=others, image_dir=image_dir)
    answers, found, _ = _directions(saved, gallery, other, console)
    if not len(found):
        raise DataError(f"No row of {against} has {_words(other)} that can be read, so there is nothing to search.")
    vectors, ids, rows = _directions(saved, asked, side, console)
    places, similar = nearest(vectors, answers, count=top)
    for row, (line, identity) in enumerate(ids):
        pairs = zip(places[row], similar[row], strict=True)
        matches = tuple(Match(id=found[int(place)][1], similarity=float(value)) for place, value in pairs)
        rows[line] = RetrievedRow(identity, matches)
    return [rows[line] for line in sorted(rows)]


def write_matches(rows: list[RetrievedRow], *, kind: Literal["csv", "jsonl"], out: Path | None) -> str:
    """Return what was found as text, and write it atomically where ``out`` is given.

    CSV has one row a match with the columns ``id``, ``rank``, ``match``, ``similarity`` and ``error``.

    Raises:
        StorageError: The file cannot be written.
    """
    text = _as_csv(rows) if kind == "csv" else "".join(_as_json(row) + "\n" for row in rows)
    if out is not None:
        write_atomic(out, text)
    return text


def _side(asked: GivenManifest, columns: Columns | None) -> str:
    named = [side for side in ("image", "text") if columns is not None and getattr(columns, side)]
    sides = named or [side for side in ("image", "text") if asked.roles[side]]
    if len(sides) != 1:
        raise ConfigError("The queries have images and texts; say which of them ask: --image COL or --text COL.")
    return sides[0]


def _directions(
    saved: SavedModel, given: GivenManifest, side: str, console: Console
) -> tuple[np.ndarray, list[tuple[int, str]], dict[int, RetrievedRow]]:
    """Return unit vectors of one side, the lines and ids they belong to, and the rows that cannot be read."""
    vectors: list[np.ndarray] = []
    ids: list[tuple[int, str]] = []
    failed: dict[int, PredictedRow] = given.unreadable()
    with quiet_decoding():
        for batch in given.batches(saved, sides=[side]):
            readable = [(line, item) for line, item in batch if isinstance(item, Sample)]
            failed |= {line: item for line, item in batch if isinstance(item, PredictedRow)}
            if readable:
                image, text = directions(saved.logits([sample for _, sample in readable]))
                vectors.append(image if side == "image" else text)
                ids += [(line, sample.id) for line, sample in readable]
            console.status(f"read {len(ids):,} of {given.records.total:,} rows")
    rows = {line: RetrievedRow(row.id, (), row.error) for line, row in failed.items()}
    return np.concatenate(vectors) if vectors else np.zeros((0, 1)), ids, rows


def _words(side: str) -> str:
    return "an image" if side == "image" else "a text"


def _as_csv(rows: list[RetrievedRow]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "rank", "match", "similarity", "error"])
    for row in rows:
        if row.error is not None:
            writer.writerow([row.id, "", "", "", row.error])
        for rank, match in enumerate(row.matches, start=1):
            writer.writerow([row.id, rank, match.id, f"{match.similarity:.6g}", ""])
    return file.getvalue()


def _as_json(row: RetrievedRow) -> str:
    error: Mapping[str, str] = {} if row.error is None else {"error": row.error}
    return json.dumps({"id": row.id, "matches": [m.to_dict() for m in row.matches], **error}, ensure_ascii=False)
