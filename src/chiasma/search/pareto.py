"""Which points no other point beats."""

import numpy as np


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Return which rows are on the Pareto front when every column is minimised.

    A point dominates another when it is no worse in every column and better in one. Equal points do not dominate each
    other, so that both stay. Two columns take O(n log n); more take O(n f) for a front of f points.

    Args:
        points: ``[n, m]`` finite numbers.

    Returns:
        ``[n]`` booleans.

    Raises:
        ValueError: ``points`` is not a table with at least one column, or holds a NaN.
    """
    if points.ndim != 2 or points.shape[1] < 1:
        raise ValueError(f"points must be a table [n, m] with m >= 1, but its shape is {points.shape}.")
    if np.isnan(points).any():
        raise ValueError("points must not hold NaN: a missing objective cannot be compared.")
    unique, inverse = np.unique(points, axis=0, return_inverse=True)
    kept = _sweep(unique[:, 1]) if points.shape[1] == 2 else _cull(unique)
    return kept[inverse.reshape(-1)]


def _sweep(second: np.ndarray) -> np.ndarray:
    """Return the front of unique rows in lexicographic order from their second column: each new minimum is on it."""
    before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
    kept = second < before
    kept[:1] = True
    return kept


def _cull(unique: np.ndarray) -> np.ndarray:
    """Return the front of unique rows in lexicographic order: only an earlier row can dominate a later one."""
    kept = np.zeros(len(unique), dtype=bool)
    front = np.empty_like(unique)
    size = 0
    for index, point in enumerate(unique):
        if not (front[:size] <= point).all(axis=1).any():
            front[size], kept[index] = point, True
            size += 1
    return kept
