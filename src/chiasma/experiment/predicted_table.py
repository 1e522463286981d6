"""Predictions as text: CSV or one JSON object a line."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from chiasma.core.files import write_atomic
from chiasma.experiment.answers import Answer, PredictedRow, prediction_words, said_by
from chiasma.experiment.saved import SavedModel


def write_predictions(
    rows: Sequence[PredictedRow], saved: SavedModel, *, kind: Literal["csv", "jsonl"], out: Path | None
) -> str:
    """Return the predictions as text, and write them atomically where ``out`` is given.

    CSV has the columns ``id``, ``prediction``, ``probability`` (of what is predicted), ``error``, and one a label. Of
    several tasks there are a column with each one's name and one with its probability in place of the second and third.

    Raises:
        StorageError: The file cannot be written.
    """
    text = _as_csv(rows, saved) if kind == "csv" else "".join(_as_json(row) + "\n" for row in rows)
    if out is not None:
        write_atomic(out, text)
    return text


def _as_csv(rows: Sequence[PredictedRow], saved: SavedModel) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    tasks = [each.name for each in saved.signature.target.tasks]
    said = [column for name in tasks for column in (name, f"{name} probability")] or ["prediction", "probability"]
    writer.writerow(["id", *said, "error", *saved.labels])
    for row in rows:
        if row.answer is None:
            writer.writerow([row.id, *[""] * len(said), row.error, *[""] * len(saved.labels)])
            continue
        scores = [f"{row.answer.scores[name]:.6g}" for name in saved.labels]
        cells = [
            cell
            for name, one in said_by(row.answer)
            for cell in (prediction_words(one), shown_probability(row.answer, name))
        ]
        writer.writerow([row.id, *cells, "", *scores])
    return file.getvalue()


def shown_probability(answer: Answer, task: str) -> str:
    """Return the probability of the class that is predicted; nothing where no class is."""
    said = dict(said_by(answer))[task]
    name = f"{task}={said}" if task else said
    return f"{answer.scores[name]:.6g}" if isinstance(name, str) and name in answer.scores else ""


def _as_json(row: PredictedRow) -> str:
    answer = {} if row.answer is None else row.answer.to_dict()
    error = {} if row.error is None else {"error": row.error}
    return json.dumps({"id": row.id, **answer, **error}, ensure_ascii=False)
