"""What a single training is held against where no search compares it with floors: the simplest answers, on select."""

from collections.abc import Mapping

from chiasma.data.dataset import Dataset
from chiasma.data.several import parts_of
from chiasma.data.signature import Target
from chiasma.experiment.floors import ClassicalFloor, Majority
from chiasma.experiment.report.wording import amount, metric_words
from chiasma.experiment.results import Arm
from chiasma.train.metrics import METRICS, measure


def simplest_floors(target: Target) -> tuple[ClassicalFloor, ...]:
    """Return the floors that say how hard a task is, which the figures of several tasks do not; none for one task."""
    return (Majority(),) if target.tasks else ()


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
