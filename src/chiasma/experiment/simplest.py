"""What a single training is held against where no search compares it with floors: the simplest answers, on select."""

from collections.abc import Mapping

import numpy as np

from chiasma.core.rng import numpy_rng
from chiasma.data.dataset import Dataset
from chiasma.data.several import parts_of
from chiasma.data.signature import Target
from chiasma.experiment.floors import ClassicalFloor, Majority
from chiasma.experiment.report.wording import amount, metric_words
from chiasma.experiment.results import Arm
from chiasma.train.metrics import METRICS, measure

DIRECTIONS = 32


def simplest_floors(target: Target) -> tuple[ClassicalFloor, ...]:
    """Return the floors that say how hard a task is, which the figures of several tasks do not; none for one task."""
    if target.task == "contrastive":
        return (Chance(),)
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
