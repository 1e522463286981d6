"""Which rows belong together, and how groups of them are cut into train, steer, select and test."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from chiasma.core.rng import numpy_rng

SPLITS = ("train", "steer", "select", "test")
"""In order of precedence: where two splits share something, the earlier one gives way."""

SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "steer": "steer",
    "select": "select",
    "val": "select",
    "valid": "select",
    "validation": "select",
    "dev": "select",
    "test": "test",
    "testing": "test",
}
"""What manifests call the splits; anything else is an error."""


def grouped(
    rows: int, links: Iterable[np.ndarray], pairs: Mapping[int, Sequence[tuple[int, int]]] | None = None
) -> np.ndarray:
    """Return a group number for each row: rows that share any key, directly or through others, share a group.

    Args:
        rows: How many rows there are.
        links: Arrays of ``rows`` keys (integers; negative for no key). Rows with equal keys belong together.
        pairs: For the link at that position, keys that count as equal.

    Returns:
        ``int64`` numbers from 0, in the order in which the groups first appear.
    """
    # Late: workers open prepared datasets and never group rows.
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left, right, nodes = [], [], rows
    for position, keys in enumerate(links):
        have = np.flatnonzero(keys >= 0)
        left.append(have)
        right.append(nodes + keys[have].astype(np.int64))
        equal = np.array((pairs or {}).get(position, ()), dtype=np.int64).reshape(-1, 2)
        left.append(nodes + equal[:, 0])
        right.append(nodes + equal[:, 1])
        nodes += int(max(keys.max(initial=-1), equal.max(initial=-1))) + 1
    start, end = np.concatenate([np.empty(0, np.int64), *left]), np.concatenate([np.empty(0, np.int64), *right])
    graph = coo_matrix((np.ones(len(start), dtype=np.int8), (start, end)), shape=(nodes, nodes))
    _, components = connected_components(graph, directed=False)
    return renumbered(components[:rows])


def renumbered(keys: np.ndarray) -> np.ndarray:
    """Return the same partition with numbers from 0 in order of first appearance."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def cut(
    groups: np.ndarray, strata: np.ndarray, *, fractions: Mapping[str, float], seed: int, rest: str = "train"
) -> np.ndarray:
    """Cut rows into splits so that no group straddles two, close to the wished fractions overall and in each stratum.

    Groups are taken in random order; each goes where its stratum and the whole lack most.

    Args:
        groups: Group number of each row.
        strata: Stratum of each row, such as its class; a group counts for its first row's.
        fractions: Share of the rows by split.
        seed: The same seed gives the same cut.
        rest: The split that takes what ``fractions`` leave.

    Returns:
        The split's name for each row, dtype object.
    """
    names = [rest, *fractions]
    share = np.array([1 - sum(fractions.values()), *fractions.values()])
    unique, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    order = numpy_rng(seed, "splits", *fractions).permutation(len(unique))
    # Large groups first: a late large group could no longer be balanced by small ones.
    order = order[np.argsort(-sizes[order], kind="stable")]
    strata_of = np.unique(strata[first], return_inverse=True)[1].reshape(-1)
    lack_in_all, lack = np.zeros(len(names)), np.zeros((strata_of.max(initial=-1) + 1, len(names)))
    chosen = np.empty(len(unique), dtype=np.int64)
    for index in order:
        size, stratum = sizes[index], strata_of[index]
        lack_in_all += size * share
        lack[stratum] += size * share
        target = int(np.argmax(lack[stratum] + lack_in_all))
        chosen[index] = target
        lack_in_all[target] -= size
        lack[stratum, target] -= size
    position = np.searchsorted(unique, groups)
    return np.array(names, dtype=object)[chosen[position]]


def straddling(keys: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return which rows have a key (``>= 0``) that also occurs in a split that matters more than theirs."""
    ranks = np.array([SPLITS.index(split) for split in splits], dtype=np.int64)
    highest = np.full(int(keys.max(initial=-1)) + 1, -1, dtype=np.int64)
    have = keys >= 0
    np.maximum.at(highest, keys[have], ranks[have])
    result = np.zeros(len(keys), dtype=bool)
    result[have] = highest[keys[have]] > ranks[have]
    return result
