"""Which of the trained designs is shipped, decided on ``select`` alone."""

from collections.abc import Sequence

import numpy as np

from chiasma.core.errors import DataError
from chiasma.data.dataset import Dataset
from chiasma.experiment.arms import kept_logits
from chiasma.experiment.finals import TrainedArm
from chiasma.experiment.statistics import Bootstrap, UndefinedMetricError

# The middle part of a normal distribution that lies within one standard error.
ONE_STANDARD_ERROR = 0.6827


def choose(trained: Sequence[TrainedArm], dataset: Dataset, *, metric: str) -> TrainedArm:
    """Return the arm to ship: the lowest error on select, unless the best floor is within one standard error of it.

    The one-standard-error rule of Breiman et al. 1984 (Classification and Regression Trees, section 3.4.3), on the
    paired bootstrap over groups and seeds: the best of many candidates owes part of its lead to luck, a floor does not.

    Args:
        trained: At least one arm.
        dataset: Whose select split judged them.
        metric: The metric that decides.
    """
    best = _lowest(trained)
    floors = [arm for arm in trained if arm.arm.role == "floor"]
    if best.arm.role == "floor" or not floors:
        return best
    floor = _lowest(floors)
    rows = dataset.rows("select")
    try:
        bootstrap = Bootstrap.over(
            dataset,
            rows,
            level=ONE_STANDARD_ERROR,
        )
        lead, _ = bootstrap.paired_gain(_outputs(best), _outputs(floor), metric)
    except (DataError, UndefinedMetricError):  # One group, or too few labels: there is no standard error.
        return best
    return best if lead.low > 0 else floor


def _lowest(arms: Sequence[TrainedArm]) -> TrainedArm:
    return min(arms, key=lambda arm: (arm.error, arm.arm.candidate))


def _outputs(arm: TrainedArm) -> np.ndarray:
    return np.stack([kept_logits(training.folder) for training in arm.trainings])
