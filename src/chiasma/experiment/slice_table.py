"""Results apart by the values of columns: by subject, by source, by whether there is an image."""

from collections.abc import Callable
from typing import Any

import numpy as np

from chiasma.core.errors import DataError
from chiasma.data.dataset import Dataset
from chiasma.experiment.statistics import Bootstrap


def slice_table(
    dataset: Dataset,
    rows: np.ndarray,
    judged: np.ndarray,
    *,
    metric: str,
    bootstrap: Callable[[np.ndarray], Bootstrap],
) -> tuple[dict[str, Any], ...]:
    """Return how a model does on the rows with each value of the dataset's slices.

    Args:
        dataset: Whose ``slices`` say which rows have which value; a row may have several values of one column.
        rows: The rows that were judged ``[n]``.
        judged: Outputs ``[S n C]`` as the metric wants them.
        metric: What is measured.
        bootstrap: Makes the intervals over some rows.

    Returns:
        ``slice, value, count, groups, score, low, high`` of each value that any row has. A score that is not defined
        on these rows, or has no interval because they are of one group, is None.
    """
    found: list[dict[str, Any]] = []
    for name, members in dataset.slices.items():
        for value, has in members.items():
            here = np.flatnonzero(has[rows])
            if len(here):
                found.append({"slice": name, "value": value, **_scored(rows[here], judged[:, here], metric, bootstrap)})
    return tuple(found)


def _scored(
    rows: np.ndarray, judged: np.ndarray, metric: str, bootstrap: Callable[[np.ndarray], Bootstrap]
) -> dict[str, Any]:
    try:
        over = bootstrap(rows)
        interval = over.interval(judged, metric)
    except DataError:
        # One group has no interval, and some rows define no metric; the count says why.
        return {"count": len(rows), "groups": None, "score": None, "low": None, "high": None}
    return {
        "count": len(rows),
        "groups": over.count,
        "score": interval.value,
        "low": interval.low,
        "high": interval.high,
    }
