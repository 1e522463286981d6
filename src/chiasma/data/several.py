"""Several tasks in one table: their labels side by side, and what belongs to which.

A row's label is one row of numbers: a class as its number, memberships and quantities as they are, NaN where a row has
no label for a task. A single task is the special case of one part, so that whoever asks for the parts need not ask what
the task is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.core.spec import suggestion
from chiasma.data.findings import Findings
from chiasma.data.labels import (
    SeveralLabels,
    decide_task,
    encode_labels,
    is_missing,
    make_target,
    parse_label,
    require_learnable,
)
from chiasma.data.signature import NamedTask, Target, Task


@dataclass(frozen=True)
class Part:
    """One task's place among the outputs and the numbers of a label.

    Attributes:
        name: Of the task; empty where there is only one.
        outputs: Its columns in a model's outputs ``[n C]``.
        columns: Its columns in the labels.
    """

    name: str
    target: Target
    outputs: slice
    columns: slice

    def of(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which rows have a label of this task ``[n]``, and the labels of those, as of a task alone."""
        if not self.name:
            return np.ones(len(labels), dtype=bool), labels
        own = labels[:, self.columns]
        known = np.asarray(~np.isnan(own).any(1))
        return known, own[known][:, 0].astype(np.int64) if self.target.task == "classification" else own[known]

    def scale(self, whole: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Return this task's part of a mean and a standard deviation ``[C]``; None unless it is a regression."""
        if whole is None or self.target.task != "regression":
            return None
        return whole[0][self.outputs], whole[1][self.outputs]


def parts_of(target: Target) -> tuple[Part, ...]:
    """Return the tasks of a target with their places, in order; one where there is one."""
    if not target.tasks:
        return (Part("", target, slice(0, target.outputs), slice(0, target.columns)),)
    found: list[Part] = []
    output = column = 0
    for each in target.tasks:
        outputs = slice(output, output + each.target.outputs)
        columns = slice(column, column + each.target.columns)
        found.append(Part(each.name, each.target, outputs, columns))
        output, column = outputs.stop, columns.stop
    return tuple(found)


def decide_tasks(values: Sequence[SeveralLabels], wanted: Mapping[str, str]) -> tuple[dict[str, Task], str]:
    """Return each column's task and why, in words for the report.

    Args:
        values: The rows' labels.
        wanted: What the settings say of some columns; the others are looked at.

    Raises:
        DataError: A name is no label column, a column is empty, or its values fit two tasks.
    """
    names = values[0].names
    for name in wanted:
        if name not in names:
            known = ", ".join(names)
            raise DataError(
                f"data.tasks.{name}: there is no such label column.{suggestion(name, list(names))} They: {known}."
            )
    tasks: dict[str, Task] = {}
    words: list[str] = []
    for place, name in enumerate(names):
        present = [row.labels[place] for row in values if not is_missing(row.labels[place])]
        tasks[name], why = decide_task(present, wanted.get(name, "auto"), name=name)
        words.append(why.replace("as data.task says", f"as data.tasks.{name} says"))
    return tasks, "; ".join(f"{name}: {why}" for name, why in zip(names, words, strict=True))


def parse_several(frame: pd.DataFrame, tasks: Mapping[str, Task], findings: Findings) -> pd.DataFrame:
    """Replace the labels by their canonical forms, and set aside rows without any that can be used."""
    rows = _of_one_width([_parsed(label, tasks) for label in frame["label"]], tasks)
    unfit = [any(part is _UNFIT for part in row.labels) for row in rows]
    empty = [all(part is None for part in row.labels) for row in rows]
    frame = frame.assign(label=pd.Series(rows, dtype=object, index=frame.index))
    reasons = np.select([unfit, empty], ["label does not fit its task", "label is missing"], default="")
    details = [", ".join(n for n, part in zip(*row, strict=True) if part is _UNFIT) for row in rows]
    frame = findings.quarantine_each(frame, reasons, details=details)
    for place, name in enumerate(tasks):
        absent = sum(row.labels[place] is None for row in frame["label"])
        if absent:
            findings.counts[f"rows without a label for {name}, from which it does not learn"] += absent
    return frame


def require_each_learnable(frame: pd.DataFrame, tasks: Mapping[str, Task]) -> None:
    """Check every label column before anything is spent on the rows.

    Raises:
        DataError: All rows have the same label of a task.
    """
    for place, (name, task) in enumerate(tasks.items()):
        present = [row.labels[place] for row in frame["label"] if row.labels[place] is not None]
        require_learnable(pd.DataFrame({"label": pd.Series(present, dtype=object)}), task, name=name)


def make_targets(labels: Sequence[SeveralLabels], tasks: Mapping[str, Task]) -> Target:
    """Return what is predicted, from the labels of the train split.

    Raises:
        DataError: The train split has one class only, or no label at all, of some task.
    """
    found: list[NamedTask] = []
    for place, (name, task) in enumerate(tasks.items()):
        present = [row.labels[place] for row in labels if row.labels[place] is not None]
        if not present:
            raise DataError(f"The train split must hold labels of {name}, but has none.")
        found.append(NamedTask(name=name, target=make_target(present, task, name=name)))
    names = [
        each.name if each.target.task == "regression" and each.target.outputs == 1 else f"{each.name}={label}"
        for each in found
        for label in each.target.labels
    ]
    return Target(task="multitask", labels=tuple(names), tasks=tuple(found))


def encode_several(labels: Sequence[SeveralLabels], target: Target) -> np.ndarray:
    """Return ``float32 [n columns]``, NaN where a row has no label for a task."""
    encoded = np.full((len(labels), target.columns), np.nan, dtype=np.float32)
    for place, part in enumerate(parts_of(target)):
        known = np.array([row.labels[place] is not None for row in labels], dtype=bool)
        own = encode_labels([row.labels[place] for row in labels if row.labels[place] is not None], part.target)
        encoded[known, part.columns] = own.reshape(-1, part.target.columns)
    return encoded


def standardised(
    labels: np.ndarray, target: Target, *, train: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Return the labels with quantities in standard units, and mean and deviation ``[C]``; None without quantities.

    Outputs that are not quantities have mean 0 and deviation 1.

    Args:
        labels: Of all rows.
        target: What is predicted.
        train: Which rows are of the train split ``[n]``.
    """
    parts = parts_of(target)
    if not any(part.target.task == "regression" for part in parts):
        return labels, None
    mean, deviation = np.zeros(target.outputs), np.ones(target.outputs)
    scaled = labels.astype(np.float64)
    for part in parts:
        if part.target.task == "regression":
            own = scaled[train][:, part.columns]
            mean[part.outputs] = np.nanmean(own, axis=0)
            spread = np.nanstd(own, axis=0)
            deviation[part.outputs] = np.where(spread > 0, spread, 1.0)
            scaled[:, part.columns] = (scaled[:, part.columns] - mean[part.outputs]) / deviation[part.outputs]
    return scaled.astype(np.float32), (mean, deviation)


def count_classes(labels: np.ndarray, target: Target) -> np.ndarray | None:
    """Return how many rows have each class or label, ``int64 [C]`` with 0 for quantities; None where nothing counts."""
    if target.task in ("regression", "contrastive", "generation"):
        return None
    counts = np.zeros(target.outputs, dtype=np.int64)
    for part in parts_of(target):
        _, own = part.of(labels)
        if part.target.task == "multilabel":
            counts[part.outputs] = own.sum(0).astype(np.int64)
        elif part.target.task == "classification":
            counts[part.outputs] = np.bincount(own, minlength=part.target.outputs)
    return counts


class _Unfit:
    """The label of a row that does not fit its task."""


_UNFIT = _Unfit()


def _parsed(label: SeveralLabels, tasks: Mapping[str, Task]) -> SeveralLabels:
    return SeveralLabels(label.names, tuple(map(_one, label.labels, tasks.values())))


def _of_one_width(rows: list[SeveralLabels], tasks: Mapping[str, Task]) -> list[SeveralLabels]:
    """Call quantities unfit that have another number of values than most of their column."""
    for place, task in enumerate(tasks.values()):
        widths = Counter(len(row.labels[place]) for row in rows if isinstance(row.labels[place], tuple))
        if task != "regression" or len(widths) < 2:
            continue
        usual = widths.most_common(1)[0][0]
        for number, row in enumerate(rows):
            if isinstance(row.labels[place], tuple) and len(row.labels[place]) != usual:
                changed = (*row.labels[:place], _UNFIT, *row.labels[place + 1 :])
                rows[number] = SeveralLabels(row.names, changed)
    return rows


def _one(value: Any, task: Task) -> Any:
    if is_missing(value):
        return None
    parsed = parse_label(value, task)
    return _UNFIT if parsed is None else parsed
