"""What is said of an example, and how it is written down."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiasma.core.files import write_atomic
from chiasma.core.spec import Spec
from chiasma.experiment.saved import SavedModel

OneAnswer = str | float | tuple[str, ...] | tuple[float, ...]


class Answer(Spec):
    """A prediction for one example.

    Attributes:
        prediction: A label, labels, or numbers; of several tasks each one's.
        scores: Calibrated probability of each label; of quantities the values.
    """

    prediction: OneAnswer | Mapping[str, OneAnswer]
    scores: Mapping[str, float]

    @property
    def words(self) -> str:
        """Return the prediction as text."""
        return prediction_words(self.prediction)


@dataclass(frozen=True)
class PredictedRow:
    """One row of a manifest.

    Attributes:
        answer: None where the row could not be read.
        error: Why not; None where it could.
        content: Hash of what the row shows.
        label: What stands in its label column, if there is one; for the checks alone.
    """

    id: str
    answer: Answer | None
    error: str | None = None
    content: bytes = b""
    label: Any = None


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


def prediction_words(prediction: Any) -> str:
    """Return a prediction as one cell of text; several labels are joined by ``|``, several tasks by ``;``."""
    if isinstance(prediction, Mapping):
        return "; ".join(f"{name}: {prediction_words(each)}" for name, each in prediction.items())
    if isinstance(prediction, tuple):
        return "|".join(prediction_words(item) for item in prediction)
    return f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)


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


def said_by(answer: Answer) -> list[tuple[str, OneAnswer]]:
    """Return the predictions by the name of their task, which is empty where there is one."""
    return list(answer.prediction.items()) if isinstance(answer.prediction, Mapping) else [("", answer.prediction)]


def shown_probability(answer: Answer, task: str) -> str:
    """Return the probability of the class that is predicted; nothing where no class is."""
    said = dict(said_by(answer))[task]
    return f"{answer.scores[f'{task}={said}' if task else said]:.6g}" if isinstance(said, str) else ""


def _as_json(row: PredictedRow) -> str:
    answer = {} if row.answer is None else row.answer.to_dict()
    error = {} if row.error is None else {"error": row.error}
    return json.dumps({"id": row.id, **answer, **error}, ensure_ascii=False)
