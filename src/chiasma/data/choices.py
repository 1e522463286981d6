"""Answers that a row cannot have: the choices of a question limit what is predicted, in every comparison alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.data.findings import Findings
from chiasma.data.labels import Task

IMPOSSIBLE = -1e4
"""The output of an answer that a row cannot have: its probability is 0, and a log of it stays finite."""


def restricted(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return outputs ``[... n C]`` in which what is not allowed ``[n C]`` is impossible."""
    return np.where(allowed, logits, np.asarray(IMPOSSIBLE, dtype=logits.dtype))


def possible(logits: np.ndarray) -> np.ndarray:
    """Return which outputs a row can have, as :func:`restricted` left them."""
    return logits > IMPOSSIBLE / 2


def clean_choices(frame: pd.DataFrame, findings: Findings, task: Task) -> pd.DataFrame:
    """Set aside rows whose label is not among the classes they allow.

    Raises:
        DataError: Choices are named where no single class is predicted.
    """
    choices = frame["allowed"]
    if not any(allowed is not None for allowed in choices):
        return frame
    if task != "classification":
        raise DataError(f"data.columns.allowed limits which class is predicted, but the task is {task}.")
    wrong = [c is not None and label not in c for c, label in zip(choices, frame["label"], strict=True)]
    details = [
        f"label {label!r}, but allowed are {', '.join(c or ())}"
        for c, label in zip(choices, frame["label"], strict=True)
    ]
    return findings.quarantine(frame, wrong, reason="label is not among those allowed", details=details)


def allowed_matrix(choices: Sequence[Any], labels: Sequence[str]) -> np.ndarray | None:
    """Return which of the labels each row may have ``[n C]``; None where nothing is limited."""
    rows = [None if choice is None else set(choice) for choice in choices]
    if all(row is None for row in rows):
        return None
    return np.array([[row is None or name in row for name in labels] for row in rows], dtype=bool)
