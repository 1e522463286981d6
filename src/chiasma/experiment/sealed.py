"""The one code path that opens a test split."""

from pathlib import Path

import numpy as np

from chiasma.data.dataset import Dataset
from chiasma.store.openings import OpeningLedger


def open_test(
    dataset: Dataset, *, ledger_folder: Path, run: str, verb: str, once: bool = False
) -> tuple[np.ndarray, int]:
    """Record an opening of the test split, then return its rows and how often it had been opened before.

    Args:
        dataset: Whose test split is opened.
        ledger_folder: Where openings are counted across runs.
        run: The run or model for which it is opened.
        verb: What opens it: ``evolve``, ``evaluate``, ``benchmark``.
        once: The run looks once in its life, so that a resume after a crash does not count a second time.
    """
    opening = OpeningLedger(ledger_folder).open_test(dataset.fingerprint, run=run, verb=verb, once=once)
    return dataset.test_rows(opening), opening.before


def opening_words(before: int) -> str:
    """Return what a reader must know about earlier openings."""
    if before == 0:
        return "This test split had never been opened before."
    times = "once" if before == 1 else f"{before} times"
    return f"This test split had been opened {times} before: treat small gains with care."
