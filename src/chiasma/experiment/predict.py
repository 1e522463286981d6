"""Predictions for one example or for a whole manifest, in order, with a reason for every row that cannot be read."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from chiasma.core.errors import DataError
from chiasma.data.batch import Sample
from chiasma.data.image import quiet_decoding
from chiasma.data.roles import Columns
from chiasma.experiment.answers import Answer, PredictedRow
from chiasma.experiment.captioned_rows import RowCaptions
from chiasma.experiment.console import Console
from chiasma.experiment.given_manifest import NO_CAPTIONS, GivenManifest, check_readable, read_image
from chiasma.experiment.saved import SavedModel


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
    check_readable(saved, sample.parts)
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


def content_of(sample: Sample) -> bytes:
    """Return a hash of what a sample shows."""
    found = hashlib.sha256()
    for name in sorted(sample.parts):
        part = sample.parts[name]
        found.update(name.encode() + b"\0")
        found.update(part.encode() if isinstance(part, str) else np.asarray(part).tobytes())
    return found.digest()


def pair_of(saved: SavedModel) -> tuple[str, ...] | None:
    """Return the parts that must be there to be compared; None for a model that makes do with what there is."""
    return saved.signature.target.labels if saved.signature.target.task == "contrastive" else None


def _answers(saved: SavedModel, samples: Sequence[Sample]) -> list[Answer]:
    return answered(saved, saved.logits(samples)) if samples else []


def answered(saved: SavedModel, logits: np.ndarray) -> list[Answer]:
    """Return what a model's outputs ``[n C]`` come to."""
    return [
        Answer(prediction=prediction, scores=dict(zip(saved.labels, map(float, row), strict=True)))
        for prediction, row in zip(saved.decide(logits), saved.scores(logits), strict=True)
    ]
