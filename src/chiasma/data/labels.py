"""The label column: which task it says, whether it can be learned, and as which numbers."""

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.data.findings import Findings
from chiasma.data.signature import Target, Task

LABEL_SEPARATOR = "|"
MOST_INTEGER_CLASSES = 100


class SeveralLabels(NamedTuple):
    """A row's labels by task; None where it has none for a task."""

    names: tuple[str, ...]
    labels: tuple[Any, ...]


def decide_task(values: Sequence[Any], wanted: str, *, name: str) -> tuple[Task, str]:
    """Return the task and why, in words for the report.

    Args:
        values: The labels that are not missing.
        wanted: What the config says; ``auto`` looks at the values.
        name: The label column's name, for messages.

    Raises:
        DataError: There is no label at all, or the values fit two tasks.
    """
    if not values:
        raise DataError(f"The label column {name} is empty in every row.")
    if wanted != "auto":
        return wanted, f"{wanted}, as data.task says"  # pyright: ignore[reportReturnType]
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        numbers = all(_is_number(part) for value in values for part in _parts(value))
        if numbers and any(float(part) % 1 for value in values for part in _parts(value)):
            return "regression", f"regression, because {name} holds lists of fractions"
        return "multilabel", f"multilabel, because {name} holds lists"
    if any(isinstance(value, str) and LABEL_SEPARATOR in value for value in values):
        return "multilabel", f"multilabel, because {name} holds values joined by {LABEL_SEPARATOR}"
    if not all(_is_number(value) for value in values):
        return "classification", f"classification, because {name} holds words"
    numbers = {float(value) for value in values}
    if any(number % 1 for number in numbers):
        return "regression", f"regression, because {name} holds fractions"
    if len(numbers) > MOST_INTEGER_CLASSES:
        raise DataError(
            f"Column {name} holds {len(numbers):,} different whole numbers; say whether they are classes or "
            "quantities: data.task=classification or data.task=regression."
        )
    return "classification", f"classification, because {name} holds {len(numbers)} different whole numbers"


def parse_labels(frame: pd.DataFrame, task: Task, findings: Findings) -> pd.DataFrame:
    """Replace the labels by their canonical form and set aside the rows without a usable one.

    The form is a string for classes, a sorted tuple of strings for label sets, a tuple of floats for quantities.
    """
    frame = findings.quarantine(frame, frame["label"].map(is_missing), reason="label is missing")
    parsed = [parse_label(value, task) for value in frame["label"]]
    padded = sum(isinstance(value, str) and value != value.strip() for value in frame["label"])
    if padded:
        findings.counts["labels with surrounding space, which was removed"] += padded
    frame = frame.assign(label=pd.Series(parsed, dtype=object, index=frame.index))
    details = [f"got {value!r}" for value in parsed]
    bad = np.array([value is None for value in parsed], dtype=bool)
    frame = findings.quarantine(frame, bad, reason=f"label does not fit {task}", details=details)
    if task == "regression":
        widths = Counter(len(value) for value in frame["label"])
        width = widths.most_common(1)[0][0] if widths else 1
        wrong = [len(value) != width for value in frame["label"]]
        frame = findings.quarantine(frame, wrong, reason=f"label does not hold {width} numbers")
    return frame


def require_learnable(frame: pd.DataFrame, task: Task, *, name: str) -> None:
    """Check the whole column before anything is spent on the rows.

    Raises:
        DataError: All rows have the same label, so that there is nothing to learn.
    """
    if not len(frame):
        raise DataError(f"No row has a usable label in column {name}.")
    different = set(frame["label"])
    if len(different) < 2:
        only = next(iter(different))
        raise DataError(
            f"Column {name} must hold at least two different labels, but all {len(frame):,} rows have {only!r}."
        )


def likely_typos(values: Sequence[str]) -> list[str]:
    """Return a sentence for each rare label that looks like a common one: another case, or a letter off."""
    counts = Counter(values)
    names = [name for name, _ in counts.most_common(500)]
    sentences: list[str] = []
    for rare in reversed(names):
        for common in names:
            enough = counts[common] >= 20 * counts[rare] or (counts[rare] <= 2 and counts[common] >= 5)
            if enough and _look_alike(rare, common):
                likely = f"a misspelling of {common!r} ({counts[common]:,} rows)"
                sentences.append(f"Label {rare!r} ({counts[rare]:,} rows) looks like {likely}.")
                break
    return sentences


def make_target(labels: Sequence[Any], task: Task, *, name: str) -> Target:
    """Return what is predicted, from the labels of the train split.

    Raises:
        DataError: The train split has one class only.
    """
    if task == "regression":
        width = len(labels[0])
        return Target(task=task, labels=(name,) if width == 1 else tuple(f"{name}_{i}" for i in range(width)))
    classes = {part for label in labels for part in ((label,) if isinstance(label, str) else label)}
    if task == "classification" and len(classes) < 2:
        raise DataError(f"The train split must hold at least two classes of {name}, but has only {sorted(classes)}.")
    return Target(task=task, labels=tuple(sorted(classes, key=_natural_order)))


def encode_labels(labels: Sequence[Any], target: Target) -> np.ndarray:
    """Return ``int64 [n]`` class numbers, or ``float32 [n C]`` memberships or quantities in their own units."""
    position = {name: index for index, name in enumerate(target.labels)}
    if target.task == "classification":
        return np.array([position[label] for label in labels], dtype=np.int64)
    if target.task == "regression":
        return np.array(list(labels), dtype=np.float32).reshape(-1, target.outputs)
    encoded = np.zeros((len(labels), target.outputs), dtype=np.float32)
    for row, label in enumerate(labels):
        encoded[row, [position[part] for part in label]] = 1.0
    return encoded


def label_names(label: Any) -> tuple[str, ...]:
    """Return the classes a canonical label names, those of several tasks with their task; none for quantities."""
    if isinstance(label, SeveralLabels):
        each = zip(label.names, label.labels, strict=True)
        return tuple(f"{name}={one}" for name, own in each if own is not None for one in label_names(own))
    if isinstance(label, str):
        return (label,)
    return tuple(part for part in label if isinstance(part, str))


def _look_alike(rare: str, common: str) -> bool:
    if rare == common or rare.isdigit() or common.isdigit():
        return False
    if rare.casefold() == common.casefold():
        return True
    return len(rare) > 3 and len(common) > 2 and difflib.SequenceMatcher(None, rare, common).ratio() >= 0.85


def _natural_order(name: str) -> tuple[int, float, str]:
    return (0, float(name), name) if _is_number(name) else (1, 0.0, name)


def is_missing(value: Any) -> bool:
    """Return whether a cell of a label column holds nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value)) and not isinstance(value, bool)
    except (TypeError, ValueError):
        return False


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split(LABEL_SEPARATOR)
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def parse_label(value: Any, task: Task) -> Any:
    """Return a label's canonical form, or None where it does not fit the task."""
    if task == "regression":
        parts = _parts(value)
        return tuple(float(part) for part in parts) if parts and all(_is_number(part) for part in parts) else None
    if task == "multilabel":
        return tuple(sorted({name for part in _parts(value) if (name := label_word(part))}))
    return None if isinstance(value, (list, tuple, dict, np.ndarray)) else label_word(value)


def label_word(value: Any) -> str:
    """Return a label as it is written: whole numbers without a decimal point, words without surrounding space."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
