"""What a single training is held against where no search compares it with floors: the simplest answers, on select."""

from collections.abc import Mapping

import numpy as np

from chiasma.core.rng import numpy_rng
from chiasma.data.batch import Tokens
from chiasma.data.dataset import Dataset
from chiasma.data.several import parts_of
from chiasma.data.signature import Target, TextInput
from chiasma.experiment.floors import ClassicalFloor, Majority
from chiasma.experiment.report.wording import amount, metric_words
from chiasma.experiment.results import Arm
from chiasma.train.metrics import METRICS, measure
from chiasma.train.predicting import ROWS_AT_A_TIME, dataset_batches

DIRECTIONS = 32
MOST_NEIGHBOURS = 5_000


def simplest_floors(target: Target) -> tuple[ClassicalFloor, ...]:
    """Return the floors that say how hard a task is, which the figures of several tasks do not; none for one task."""
    if target.task == "contrastive":
        return (Chance(),)
    if target.task == "generation":
        return (CommonestText(), NearestText())
    return (Majority(),) if target.tasks else ()


class Chance(ClassicalFloor):
    """Image and text have nothing to do with each other."""

    name = "chance"

    def __init__(self) -> None:
        self.description = "random similarities"

    def _fit(self, dataset: Dataset) -> None:
        """Nothing is learned."""

    def _logits(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return random directions, equal for equal images and equal texts."""
        labels = dataset.labels(rows).numpy()
        drawn = [numpy_rng(0, "chance", side).standard_normal((labels.max() + 1, DIRECTIONS)) for side in (0, 1)]
        return np.concatenate([drawn[side][labels[:, side]] for side in (0, 1)], axis=1)


class CommonestText(ClassicalFloor):
    """Always the same text."""

    name = "commonest_text"

    def __init__(self) -> None:
        self.description = "always the commonest text, each id as likely as it is frequent"
        self._text = np.zeros(0)
        self._losses = np.zeros(0)

    def _fit(self, dataset: Dataset) -> None:
        labels = dataset.labels(dataset.rows("train")).numpy()
        texts, counts = np.unique(labels, axis=0, return_counts=True)
        self._text = texts[counts.argmax()]
        self._losses = id_losses(labels, dataset.signature.target.outputs)

    def _logits(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return the ids of the text, and how unlikely the right one is."""
        losses = self._losses[dataset.labels(rows).numpy()[:, 1:]].sum(1, keepdims=True)
        return np.concatenate([np.tile(self._text, (len(rows), 1)), losses], axis=1)


class NearestText(ClassicalFloor):
    """The text of the train row that looks most alike."""

    name = "nearest_text"

    def __init__(self) -> None:
        self.description = "the text of the train row that looks most alike, each id as likely as it is frequent"
        self._known: tuple[np.ndarray, np.ndarray] = (np.zeros((0, 0)), np.zeros((0, 0)))
        self._losses = np.zeros(0)

    def _fit(self, dataset: Dataset) -> None:
        rows = dataset.rows("train")[:MOST_NEIGHBOURS]
        labels = dataset.labels(rows).numpy()
        self._known = (flat_inputs(dataset, rows), labels)
        self._losses = id_losses(labels, dataset.signature.target.outputs)

    def _logits(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return the ids of each row's neighbour, and how unlikely the right ones are."""
        known, texts = self._known
        asked = flat_inputs(dataset, rows)
        distances = (known**2).sum(1) - 2 * asked @ known.T
        losses = self._losses[dataset.labels(rows).numpy()[:, 1:]].sum(1, keepdims=True)
        return np.concatenate([texts[distances.argmin(1)], losses], axis=1)


def id_losses(labels: np.ndarray, vocabulary: int) -> np.ndarray:
    """Return the log loss of each id by its frequency ``[C]``, smoothed so that none is impossible; 0 of padding."""
    counts = np.bincount(labels[:, 1:].ravel(), minlength=vocabulary) + 1.0
    counts[0] = 0.0
    losses = -np.log(np.maximum(counts, 1.0) / counts.sum())
    losses[0] = 0.0
    return losses


def flat_inputs(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return what is not text of each row, or the ids of a text alone, as one vector ``[n F]``."""
    inputs = dataset.signature.inputs
    names = [name for name, kind in inputs.items() if not isinstance(kind, TextInput)] or list(inputs)
    parts: list[np.ndarray] = []
    for batch in dataset_batches(dataset, rows, batch_size=ROWS_AT_A_TIME, modalities=names):
        values = [batch.inputs[name] for name in names]
        flat = [(v.x if isinstance(v, Tokens) else v).float().flatten(1).numpy() for v in values]
        parts.append(np.concatenate(flat, axis=1))
    return np.concatenate(parts)


def simplest_arms(dataset: Dataset) -> tuple[Arm, ...]:
    """Fit the simplest floors and measure them on select."""
    rows, target = dataset.rows("select"), dataset.signature.target
    arms: list[Arm] = []
    for floor in simplest_floors(target):
        floor.fit(dataset)
        labels = dataset.labels(rows).numpy()
        figures = measure(floor.logits(dataset, rows), labels, target, target_scale=dataset.target_scale)
        arms.append(Arm(name=floor.name, role="floor", description=floor.description, select=figures))
    return tuple(arms)


def figures_by_task(figures: Mapping[str, float], target: Target) -> tuple[str, ...]:
    """Return a sentence with each task's usual figure; none where there is one task."""
    names = [f"{part.name}/{METRICS[part.target.task][0]}" for part in parts_of(target)] if target.tasks else []
    shown = [f"{metric_words(name)} {amount(name, figures[name])}" for name in names if name in figures]
    return (f"On select: {', '.join(shown)}.",) if shown else ()
