"""Predictions for one example or for a whole manifest, in order, with a reason for every row that cannot be read."""

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chiasma.core.errors import ConfigError, DataError
from chiasma.core.files import write_atomic
from chiasma.core.spec import Spec
from chiasma.data.batch import Sample
from chiasma.data.decoding import image_path
from chiasma.data.features import import_file
from chiasma.data.image import decode_file, quiet_decoding
from chiasma.data.records import Records, read_records
from chiasma.data.roles import Columns, joined_text, resolve_roles, row_identity, words_of
from chiasma.data.signature import TokensInput
from chiasma.experiment.captioned_rows import RowCaptions
from chiasma.experiment.console import Console
from chiasma.experiment.saved import SavedModel

BATCH = 64
NO_CAPTIONS = RowCaptions()

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


def predict_one(
    saved: SavedModel, *, image: Path | None, text: str | None, captions: RowCaptions = NO_CAPTIONS
) -> Answer:
    """Return the prediction for one image, one text, or a pair.

    Args:
        saved: The model.
        image: An image file.
        text: A text.
        captions: Where the caption of the image comes from, for a model that reads such.

    Raises:
        DataError: The image cannot be read, or the model reads neither of what is given.
    """
    parts: dict[str, np.ndarray | str] = {}
    if image is not None:
        parts["image"] = read_image(image, max_pixels=saved.max_pixels)
    told = captions.from_file(text, "", None if image is None else str(image))
    if told is not None:
        parts["text"] = told
    sample = captions.written([Sample("1", parts)])[0]
    _check_readable(saved, sample.parts)
    pair = pair_of(saved)
    if pair is not None and set(sample.parts) != set(pair):
        raise DataError(
            f"The model compares an image with a text, but only {', '.join(sample.parts)} is given; to find the best "
            "of many, give MANIFEST --against GALLERY."
        )
    return _answers(saved, [sample])[0]


def predict_manifest(
    saved: SavedModel,
    manifest: Path,
    *,
    columns: Columns | None = None,
    image_dir: Path | None = None,
    features: Mapping[str, Path] | None = None,
    captions: RowCaptions = NO_CAPTIONS,
    console: Console,
) -> list[PredictedRow]:
    """Return a prediction or a reason for every row, in the manifest's order.

    Where the user asks to stop, those of the rows so far.

    Args:
        saved: The model.
        manifest: JSONL, CSV or Parquet; labels are not needed, and where there are some, only checks look at them.
        columns: Which columns hold what; where none is named, those the model was trained on, if the manifest has
            them, or the usual names.
        image_dir: What image paths are below; the manifest's folder by default.
        features: By modality, a file of tokens made elsewhere, for a model that was trained on such.
        captions: Where captions come from, for a model that reads such.
        console: Where progress goes.

    Raises:
        DataError: The manifest cannot be read, or has no column that the model reads.
    """
    given = GivenManifest.read(
        saved, manifest, columns=columns, image_dir=image_dir, features=features, captions=captions
    )
    rows = given.unreadable()
    with quiet_decoding():
        for batch in given.batches(saved, sides=pair_of(saved)):
            readable = [(line, sample) for line, sample in batch if isinstance(sample, Sample)]
            answers = _answers(saved, [sample for _, sample in readable])
            for (line, sample), answer in zip(readable, answers, strict=True):
                rows[line] = PredictedRow(sample.id, answer, None, content_of(sample), sample.label)
            rows |= {line: item for line, item in batch if isinstance(item, PredictedRow)}
            console.status(f"predicted {len(rows):,} of {given.records.total:,} rows")
            if console.interrupted:
                break
    return [rows[line] for line in sorted(rows)]


@dataclass(frozen=True)
class GivenManifest:
    """A manifest with what is known of its columns.

    Attributes:
        roles: The columns by role.
        root: What image paths are below.
        ready: Tokens made elsewhere, by modality and id.
        captions: Where captions come from.
    """

    records: Records
    roles: Mapping[str, tuple[str, ...]]
    root: Path
    ready: Mapping[str, Mapping[str, np.ndarray]]
    captions: RowCaptions = NO_CAPTIONS

    @classmethod
    def read(
        cls,
        saved: SavedModel,
        manifest: Path,
        *,
        columns: Columns | None = None,
        image_dir: Path | None = None,
        features: Mapping[str, Path] | None = None,
        captions: RowCaptions = NO_CAPTIONS,
    ) -> "GivenManifest":
        """Read a manifest; arguments and errors as in :func:`predict_manifest`."""
        records = read_records(manifest)
        roles = resolve_roles(records.columns, saved.columns_for(columns or Columns(), records.columns), labelled=False)
        roles["text"] = captions.text_columns(roles["text"], records.columns)
        root = image_dir if image_dir is not None else manifest.parent
        return cls(records, roles, root, _ready_tokens(saved, features or {}), captions)

    def unreadable(self) -> dict[int, PredictedRow]:
        """Return the lines that are no rows, with the reason."""
        return {bad.line: PredictedRow(f"line-{bad.line}", None, bad.detail) for bad in self.records.bad}

    def batches(
        self, saved: SavedModel, *, sides: Collection[str] | None = None
    ) -> Iterator[list[tuple[int, Sample | PredictedRow]]]:
        """Yield the rows with their lines, as samples or as what cannot be read, some at a time.

        Args:
            saved: The model that reads them.
            sides: The parts that count; each must be there. None for whatever there is of what the model reads.
        """
        roles = self.roles if sides is None else {n: c if n in (*sides, "id") else () for n, c in self.roles.items()}
        for batch in _batches(_samples(saved, self.records, roles, self.root, self.ready, self.captions)):
            told = _captioned(saved, batch, self.captions, check=not self.ready)
            yield [(line, item if sides is None else _with_all(item, sides)) for line, item in told]


def _with_all(item: Sample | PredictedRow, sides: Collection[str]) -> Sample | PredictedRow:
    missing = [side for side in sides if isinstance(item, Sample) and side not in item.parts]
    return PredictedRow(item.id, None, f"The row has no {missing[0]}.") if missing else item


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


def read_image(path: Path, *, max_pixels: int) -> np.ndarray:
    """Return an image file as ``H W 3`` uint8.

    Raises:
        DataError: The file is missing, damaged, not an image, or too large.
    """
    return np.asarray(decode_file(path, max_pixels=max_pixels))


def content_of(sample: Sample) -> bytes:
    """Return a hash of what a sample shows."""
    found = hashlib.sha256()
    for name in sorted(sample.parts):
        part = sample.parts[name]
        found.update(name.encode() + b"\0")
        found.update(part.encode() if isinstance(part, str) else np.asarray(part).tobytes())
    return found.digest()


def prediction_words(prediction: Any) -> str:
    """Return a prediction as one cell of text; several labels are joined by ``|``, several tasks by ``;``."""
    if isinstance(prediction, Mapping):
        return "; ".join(f"{name}: {prediction_words(each)}" for name, each in prediction.items())
    if isinstance(prediction, tuple):
        return "|".join(prediction_words(item) for item in prediction)
    return f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)


def _samples(
    saved: SavedModel,
    records: Records,
    roles: Mapping[str, tuple[str, ...]],
    root: Path,
    ready: Mapping[str, Mapping[str, np.ndarray]],
    captions: RowCaptions,
) -> Iterator[tuple[int, Sample | PredictedRow]]:
    # Of several label columns none is looked at: the checks know one.
    named = saved.data("rows").columns.label or "label"
    label = named if isinstance(named, str) else ""
    for row, line in zip(records.rows, records.lines, strict=True):
        identity = str(row.get(roles["id"][0])) if roles["id"] else row_identity(line)
        try:
            parts = _parts(saved, row, roles, root, ready, captions, identity)
            parts |= _tokens(row, roles, identity, ready)
            yield line, Sample(identity, parts, row.get(label), allowed=_choices(saved, row, roles))
        except DataError as error:
            yield line, PredictedRow(identity, None, str(error))


def _captioned(
    saved: SavedModel, batch: Sequence[tuple[int, Sample | PredictedRow]], captions: RowCaptions, *, check: bool
) -> list[tuple[int, Sample | PredictedRow]]:
    """Return the rows of a batch with captions written, and the reason for each that the model cannot read."""
    written = iter(captions.written([item for _, item in batch if isinstance(item, Sample)]))
    told = [(line, next(written) if isinstance(item, Sample) else item) for line, item in batch]
    return [(line, _checked(saved, item) if check else item) for line, item in told]


def _checked(saved: SavedModel, item: Sample | PredictedRow) -> Sample | PredictedRow:
    if isinstance(item, Sample):
        try:
            _check_readable(saved, item.parts)
        except DataError as error:
            return PredictedRow(item.id, None, str(error))
    return item


def _parts(
    saved: SavedModel,
    row: Mapping[str, Any],
    roles: Mapping[str, tuple[str, ...]],
    root: Path,
    ready: Mapping[str, Mapping[str, np.ndarray]],
    captions: RowCaptions,
    identity: str,
) -> dict[str, np.ndarray | str]:
    parts: dict[str, np.ndarray | str] = {}
    name = row.get(roles["image"][0]) if roles["image"] else None
    text = captions.from_file(joined_text(row, roles["text"]), identity, None if name is None else str(name))
    if text is not None:
        parts["text"] = text
    if "image" in ready:
        return parts
    if name not in (None, "") and ("image" in _reads(saved) or captions.of_images):
        path = image_path(str(name), root)
        if path is None:
            raise DataError(f"The image path {name} leads outside the image folder {root}.")
        parts["image"] = read_image(path, max_pixels=saved.max_pixels)
    return parts


def _choices(saved: SavedModel, row: Mapping[str, Any], roles: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the classes a row can have, or None for all.

    Raises:
        DataError: It can have none that the model knows.
    """
    choices = words_of(row.get(roles["allowed"][0])) if roles["allowed"] else ()
    if choices and not set(choices) & set(saved.labels):
        raise DataError(
            f"The row allows {', '.join(choices[:8])}, but the model predicts {', '.join(saved.labels[:8])}."
        )
    return choices or None


def _ready_tokens(saved: SavedModel, features: Mapping[str, Path]) -> dict[str, dict[str, np.ndarray]]:
    """Return tokens by modality and id.

    Raises:
        ConfigError: The model reads ready-made tokens and no file is given, or the other way round.
        DataError: A file cannot be read.
    """
    wanted = [name for name in saved.model.spec.encoders if isinstance(saved.signature.inputs[name], TokensInput)]
    if sorted(wanted) != sorted(features):
        raise ConfigError(
            f"--features: the model reads ready-made tokens of {', '.join(wanted) or 'nothing'}, "
            f"but files are given for {', '.join(features) or 'nothing'}."
        )
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, path in features.items():
        tokens = import_file(path)
        found[name] = dict(zip(tokens.ids, tokens.tokens, strict=True))
        for part, values in (
            ("boxes", tokens.boxes),
            ("mask", None if tokens.mask is None else tokens.mask[..., None]),
        ):
            found[f"{name}.{part}"] = {} if values is None else dict(zip(tokens.ids, values, strict=True))
    return found


def _tokens(
    row: Mapping[str, Any],
    roles: Mapping[str, tuple[str, ...]],
    identity: str,
    ready: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Return the row's ready-made tokens, found by its id or by its image's file name, with or without ending."""
    image = str(row.get(roles["image"][0]) or "") if roles["image"] else ""
    names = (identity, image, Path(image).name, Path(image).stem)
    found: dict[str, np.ndarray] = {}
    for part, by_id in ready.items():
        name = next((name for name in names if name in by_id), None)
        if name is not None:
            found[part] = by_id[name].astype(np.float32)
        elif "." not in part:
            raise DataError(f"The file of {part} tokens has none for {identity} ({image or 'no image'}).")
    return found


def _reads(saved: SavedModel) -> list[str]:
    """Return what a model reads; a whole model of a third party, which does not say so, all there is."""
    return list(saved.model.spec.encoders) or list(saved.signature.inputs)


def pair_of(saved: SavedModel) -> tuple[str, ...] | None:
    """Return the parts that must be there to be compared; None for a model that makes do with what there is."""
    return saved.signature.target.labels if saved.signature.target.task == "contrastive" else None


def _check_readable(saved: SavedModel, parts: Mapping[str, Any]) -> None:
    reads = _reads(saved)
    if not set(parts) & set(reads):
        given = ", ".join(parts) or "nothing"
        raise DataError(f"The model reads {' and '.join(reads)}, but the row has {given}.")


def _batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _answers(saved: SavedModel, samples: Sequence[Sample]) -> list[Answer]:
    return answered(saved, saved.logits(samples)) if samples else []


def answered(saved: SavedModel, logits: np.ndarray) -> list[Answer]:
    """Return what a model's outputs ``[n C]`` come to."""
    return [
        Answer(prediction=prediction, scores=dict(zip(saved.labels, map(float, row), strict=True)))
        for prediction, row in zip(saved.decide(logits), saved.scores(logits), strict=True)
    ]


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
