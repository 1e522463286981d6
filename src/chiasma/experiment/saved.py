"""A trained classifier as a folder that can be moved anywhere: weights, architecture, preprocessing, calibration."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.errors import CorruptFileError, StorageError
from chiasma.core.spec import Spec
from chiasma.data.batch import Batch, Sample
from chiasma.data.choices import allowed_matrix, restricted
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import Columns, DataSpec
from chiasma.data.preprocessing import Preprocessing
from chiasma.data.several import parts_of
from chiasma.data.signature import Signature, Target
from chiasma.evaluate.jailed_model import JailedModel, trained_model, weights_of
from chiasma.experiment.calibration import Calibrator
from chiasma.experiment.checks import CheckRules
from chiasma.experiment.expectation import Expectation, expect
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from chiasma.store.checkpoint import load_newest, save_checkpoint
from chiasma.train.devices import pick_device
from chiasma.train.predicting import predict_logits
from chiasma.train.retrieval import directions

FORMAT = 1
SIMILARITY = "similarity"
LEARNT_FILE = "learnt.u64"
LEARNT_DTYPE = "<u8"


class Card(Spec):
    """What a saved model's documents say about its form; read before anything else.

    Attributes:
        format: Version of the folder's layout.
        facts: Where the model comes from: run, candidate, metric, fingerprint of its data, figures on select.
    """

    format: int = FORMAT
    facts: Mapping[str, Any] = {}


def learnt_contents(dataset: Dataset) -> np.ndarray:
    """Return the sorted contents of all rows of a dataset that are not sealed."""
    rows = np.concatenate([dataset.rows(split) for split in ("train", "steer", "select")])
    return np.unique(dataset.contents(rows))


@dataclass(frozen=True)
class SavedModel:
    """A classifier that needs nothing but its folder.

    Attributes:
        model: With its spec and signature; it answers from the jail where its source is not approved.
        preprocessing: From raw images and texts to the model's inputs.
        calibrator: From the model's outputs to probabilities and decisions.
        card: Where it comes from.
        learnt: Contents (:meth:`~chiasma.data.dataset.Dataset.contents`) of the rows that made it what it is, sorted:
            those it was trained on, and those by which it was steered, selected and calibrated.
        expectation: What its predictions on select looked like, and which checks new ones must pass.
    """

    model: MultimodalModel | JailedModel
    preprocessing: Preprocessing
    calibrator: Calibrator
    card: Mapping[str, Any] = field(default_factory=dict)
    learnt: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=LEARNT_DTYPE))
    expectation: Expectation = field(default_factory=Expectation)

    @property
    def signature(self) -> Signature:
        """Return what the model reads and predicts."""
        return self.model.signature

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the scores, in order."""
        target = self.signature.target
        return (SIMILARITY,) if target.task == "contrastive" else target.labels

    @property
    def target_scale(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return mean and standard deviation ``[C]`` of the train targets; None where there are no quantities."""
        spec = self.preprocessing.spec
        if spec.target_mean is None or spec.target_deviation is None:
            return None
        return np.array(spec.target_mean), np.array(spec.target_deviation)

    @property
    def max_pixels(self) -> int:
        """Return the size from which an image is refused."""
        return self.preprocessing.spec.max_pixels

    def save(self, folder: Path) -> None:
        """Write the model; what stood in ``folder`` before is replaced only when all is written.

        Raises:
            StorageError: The folder cannot be written to.
        """
        documents = {
            "card": Card(facts=self.card).to_dict(),
            "model": self.model.spec.to_dict(),
            "signature": self.signature.to_dict(),
            "calibrator": self.calibrator.to_dict(),
            "expectation": self.expectation.to_dict(),
            **self.preprocessing.documents(),
        }
        tensors = {"model": weights_of(self.model)}
        files = {**self.preprocessing.files(), LEARNT_FILE: self.learnt.astype(LEARNT_DTYPE).tobytes()}
        save_checkpoint(folder, 0, tensors=tensors, documents=documents, files=files, keep=1)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> "SavedModel":
        """Read a model that :meth:`save` wrote; every byte is checked, and nothing is unpickled.

        Raises:
            StorageError: There is no saved model, or a newer version wrote it.
            CorruptFileError: A file is not what was written, or the weights do not fit the architecture.
        """
        found = load_newest(folder)
        if found is None:
            raise StorageError(f"{folder} holds no saved model.")
        documents = found.documents
        card = Card.from_dict(documents["card"], where=f"{folder}: card")
        if card.format > FORMAT:
            raise StorageError(
                f"{folder} has format {card.format}, but this version reads up to {FORMAT}. Upgrade chiasma."
            )
        signature = Signature.from_dict(documents["signature"])
        try:
            model = trained_model(ModelSpec.from_dict(documents["model"]), signature, found.tensors("model"))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CorruptFileError(f"The weights in {folder} do not fit their architecture: {reason}") from None
        return cls(
            model=model.to(pick_device("cpu" if isinstance(model, JailedModel) else device)).eval(),
            preprocessing=Preprocessing.load(documents, found.files),
            calibrator=Calibrator.from_dict(documents["calibrator"]),
            card=card.facts,
            learnt=np.frombuffer(found.files.get(LEARNT_FILE, b""), dtype=LEARNT_DTYPE),
            # Models of earlier versions have none: they are checked by the usual rules.
            expectation=Expectation.from_dict(documents.get("expectation", {}), where=f"{folder}: expectation"),
        )

    def expecting(self, logits: np.ndarray, rules: CheckRules) -> "SavedModel":
        """Return the same, remembering its outputs on select ``[n C]`` and when new predictions are good enough."""
        task = self.signature.target.task
        if task not in ("classification", "multilabel", "regression"):
            return replace(self, expectation=Expectation(rules=rules))
        decisions, scores = self.decide(logits), self.scores(logits)
        return replace(self, expectation=expect(decisions, scores, rules=rules, quantities=task == "regression"))

    def reads_as_prepared(self, dataset: Dataset) -> bool:
        """Return whether a dataset's rows are prepared exactly as this model expects, down to the tokenizer."""
        theirs = dataset.preprocessing()
        ours = self.preprocessing
        return theirs.documents() == ours.documents() and theirs.files() == ours.files()

    def learnt_from(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return which rows ``[n]`` the model has learnt from, in whatever file and split they stand now."""
        return np.isin(dataset.contents(rows), self.learnt)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Return raw samples as the model's inputs.

        Raises:
            DataError: A sample lacks a part or holds something that cannot be read.
        """
        return self.preprocessing.encode(samples)

    def logits(self, samples: Sequence[Sample], *, batch_size: int = 256) -> np.ndarray:
        """Return uncalibrated outputs ``[n C]``; classes that a sample cannot have are impossible in them."""
        starts = range(0, len(samples), batch_size)
        logits = predict_logits(self.model, (self.encode(samples[s : s + batch_size]) for s in starts))
        allowed = allowed_matrix([sample.allowed for sample in samples], self.labels)
        return logits if allowed is None else restricted(logits, allowed)

    def data(self, source: str) -> DataSpec:
        """Return how to read other data of the same kind: with the columns and task of those it was trained on."""
        known = DataSpec.from_dict(self.card.get("data", {}))
        return DataSpec(
            source=source,
            columns=known.columns,
            task=known.task,
            tasks=known.tasks,
            max_pixels=known.max_pixels,
            captions=known.captions,
        )

    def columns_for(self, chosen: Columns, present: Collection[str]) -> Columns:
        """Return the columns of a table to predict from: the named ones, completed by our own that it has."""
        known = self.data("rows").columns
        return Columns(
            id=chosen.id or (known.id if known.id in present else None),
            image=chosen.image or (known.image if known.image in present else None),
            text=chosen.text or (known.text if set(known.text) <= set(present) else ()),
            allowed=chosen.allowed or (known.allowed if known.allowed in present else None),
        )

    def predict_proba(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return calibrated probabilities ``[n C]``; of quantities the values in the data's own units."""
        return self.scores(self.logits(samples))

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Return what :meth:`predict_proba` makes of outputs ``[n C]``; of pairs their cosine similarity ``[n 1]``."""
        if self.signature.target.task == "contrastive":
            image, text = directions(logits)
            return (image * text).sum(1, keepdims=True)
        values = self.calibrator.probabilities(logits)
        if self.target_scale is None:
            return values
        mean, deviation = self.target_scale
        return values * deviation + mean

    def decide(self, logits: np.ndarray) -> list[Any]:
        """Return the prediction for each row of outputs ``[n C]``: a label, a tuple of labels, or numbers.

        Of several tasks a mapping with the prediction of each.
        """
        if self.signature.target.task == "contrastive":
            return [float(similarity) for similarity in self.scores(logits)[:, 0]]
        parts = parts_of(self.signature.target)
        decided, values = self.calibrator.decision_logits(logits), self.scores(logits)
        each = [_decisions(part.target, decided[:, part.outputs], values[:, part.outputs]) for part in parts]
        if not self.signature.target.tasks:
            return each[0]
        names = [part.name for part in parts]
        return [dict(zip(names, row, strict=True)) for row in zip(*each, strict=True)]

    def predict(self, samples: Sequence[Sample]) -> list[Any]:
        """Return the prediction for each sample, with the thresholds that select chose."""
        return self.decide(self.logits(samples))


def _decisions(target: Target, decided: np.ndarray, values: np.ndarray) -> list[Any]:
    """Return what one task's columns say of each row, by calibrated and thresholded logits or by values."""
    if target.task == "classification":
        return [target.labels[place] for place in decided.argmax(-1)]
    if target.task == "multilabel":
        return [tuple(name for name, on in zip(target.labels, row, strict=True) if on) for row in decided > 0]
    return [float(row[0]) if len(row) == 1 else tuple(float(value) for value in row) for row in values]
