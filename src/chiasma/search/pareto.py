"""Several objectives at once: fronts, crowding and hypervolume; all objectives are minimised."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Point = Mapping[str, float]


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Return which rows are on the Pareto front.

    A point dominates another when it is no worse in every column and better in one. Equal points do not dominate each
    other, so that both stay.

    Args:
        points: ``[n, m]`` finite numbers.

    Returns:
        ``[n]`` booleans.

    Raises:
        ValueError: ``points`` is not a table with at least one column, or holds a NaN.
    """
    return front_numbers(points) == 0


def front_numbers(points: np.ndarray) -> np.ndarray:
    """Return the front of each row: 0 for those that nothing dominates, 1 for those that only these dominate, ...

    Raises:
        ValueError: ``points`` is not a table with at least one column, or holds a NaN.
    """
    _check(points)
    if not len(points):
        return np.zeros(0, dtype=np.int64)
    if points.shape[1] == 1:
        return np.unique(points[:, 0], return_inverse=True)[1].astype(np.int64)
    return np.asarray(_moocore().pareto_rank(points), dtype=np.int64)


def crowding(points: np.ndarray) -> np.ndarray:
    """Return how far each row is from its neighbours on one front, summed over the objectives; the ends are infinite.

    The crowding distance of Deb et al. 2002 (https://doi.org/10.1109/4235.996017); unlike the paper, of equal points
    only the first has the distance, the others are as crowded as can be.
    """
    _check(points)
    unique, first = np.unique(points, axis=0, return_index=True)
    distance = np.zeros(len(unique))
    for column in unique.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if spread > 0 and len(order) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    found = np.zeros(len(points))
    found[first] = distance
    return found


def by_front(points: Mapping[int, Point], objectives: Sequence[str]) -> list[int]:
    """Return the names of points in the order of NSGA-II: by front, within a front the least crowded first.

    Ties go to the smaller name.
    """
    names = sorted(points)
    if not names:
        return []
    table = np.array([[points[name][objective] for objective in objectives] for name in names])
    fronts = front_numbers(table)
    crowded = np.zeros(len(names))
    for front in np.unique(fronts):
        crowded[fronts == front] = crowding(table[fronts == front])
    order = sorted(range(len(names)), key=lambda place: (fronts[place], -crowded[place], names[place]))
    return [names[place] for place in order]


def hypervolume(points: np.ndarray, reference: Sequence[float]) -> float:
    """Return the volume that the points dominate within the reference point.

    Raises:
        ValueError: ``points`` is not a table with as many columns as the reference, or holds a NaN.
    """
    _check(points)
    if points.shape[1] != len(reference):
        raise ValueError(f"points have {points.shape[1]} objectives, but the reference point has {len(reference)}.")
    inside = points[(points < np.asarray(reference)).all(axis=1)]
    return float(_moocore().hypervolume(inside, ref=list(reference))) if len(inside) else 0.0


def _check(points: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] < 1:
        raise ValueError(f"points must be a table [n, m] with m >= 1, but its shape is {points.shape}.")
    if np.isnan(points).any():
        raise ValueError("points must not hold NaN: a missing objective cannot be compared.")


def _moocore() -> Any:
    # Late: it takes a third of a second, and most verbs compare nothing.
    return importlib.import_module("moocore")
