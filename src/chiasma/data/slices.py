"""Columns by whose values results are shown apart: which rows have which value."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.data.mapped import save_array

MOST_VALUES = 50


def write_slices(frame: pd.DataFrame, names: Sequence[str], folder: Path) -> list[tuple[str, list[str]]]:
    """Write which rows have which value of each column, and return each column with its values.

    Raises:
        DataError: A column has too many values for a table.
    """
    found: list[tuple[str, list[str]]] = []
    for place, name in enumerate(names):
        cells = [slices[place] for slices in frame["slices"]]
        values = sorted({word for words in cells for word in words}, key=_by_number)
        if len(values) > MOST_VALUES:
            raise DataError(
                f"data.slices: column {name} must have at most {MOST_VALUES} different values, but has {len(values):,}."
            )
        save_array(
            folder / f"slice{place}.npy", np.array([[v in words for v in values] for words in cells], dtype=bool)
        )
        found.append((name, values))
    return found


def count_slices(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how many rows have which value of each column, the commonest first."""
    return {
        name: dict(Counter(word for slices in frame["slices"] for word in slices[place]).most_common())
        for place, name in enumerate(names)
    }


def read_slices(folder: Path, columns: Sequence[tuple[str, Sequence[str]]]) -> dict[str, dict[str, np.ndarray]]:
    """Return by column and value which rows have it ``[n]``."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for place, (name, words) in enumerate(columns):
        members = np.load(folder / f"slice{place}.npy", allow_pickle=False)
        found[name] = {word: members[:, column] for column, word in enumerate(words)}
    return found


def _by_number(word: str) -> tuple[float, str]:
    """Order ``2`` before ``10``, and words by the alphabet behind numbers."""
    try:
        return (float(word), word)
    except ValueError:
        return (float("inf"), word)
