"""What a table's rows teach: the task, what it needs of each row, and the numbers that a model is taught with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from chiasma.data.choices import clean_choices
from chiasma.data.findings import Findings
from chiasma.data.labels import (
    SeveralLabels,
    decide_task,
    encode_labels,
    label_names,
    likely_typos,
    make_target,
    parse_labels,
    require_learnable,
)
from chiasma.data.manifest import DataSpec
from chiasma.data.several import decide_tasks, encode_several, make_targets, parse_several, require_each_learnable
from chiasma.data.signature import Target, Task

SIDES = ("image", "text")


@dataclass(frozen=True)
class Learnable:
    """The task of a table.

    Attributes:
        task: What is learned.
        why: The same and why, in words for the report.
        tasks: Of each label column, where there are several.
    """

    task: Task
    why: str
    tasks: Mapping[str, Task] = field(default_factory=dict)

    @property
    def may_differ(self) -> bool:
        """Return whether equal rows may have different labels: measurements, and texts about one image, do."""
        return self.task not in ("classification", "multilabel")

    def target(self, labels: Sequence[Any], *, name: str) -> Target:
        """Return what is predicted, from the labels of the train split.

        Raises:
            DataError: The train split has one class only, or no label at all.
        """
        if self.task == "contrastive":
            return Target(task="contrastive", labels=SIDES)
        return make_targets(labels, self.tasks) if self.tasks else make_target(labels, self.task, name=name)

    def encode(self, frame: pd.DataFrame, target: Target, *, images: np.ndarray) -> np.ndarray:
        """Return the labels of all rows as numbers; quantities in their own units.

        Of pairs ``int64 [n 2]``: which of the distinct images and which of the distinct texts a row has.

        Args:
            frame: The rows.
            target: What is predicted.
            images: The number of each row's distinct image, -1 for none.
        """
        if self.task == "contrastive":
            return np.stack([_distinct(images, frame["image"]), _distinct(None, frame["text"])], axis=1)
        labels = frame["label"].tolist()
        return encode_several(labels, target) if self.tasks else encode_labels(labels, target)


def learnable(frame: pd.DataFrame, spec: DataSpec, findings: Findings, *, name: str) -> tuple[pd.DataFrame, Learnable]:
    """Check the whole label column before anything is spent on the rows, and set aside those that cannot be used.

    Args:
        frame: The table as read.
        spec: What the user says of it.
        findings: Takes what is set aside.
        name: The label column's name, for messages.

    Returns:
        The table with canonical labels, and what is learned from it.

    Raises:
        DataError: There is no label at all, the values fit two tasks, or there is nothing to learn.
    """
    if spec.task == "contrastive":
        return _pairs(frame)
    usable = [value for value in frame["label"] if value is not None]
    if isinstance(spec.columns.label, tuple) and len(spec.columns.label) > 1:
        return _several(frame, usable, spec, findings, name=name)
    task, why = decide_task(usable, spec.task, name=name)
    frame = clean_choices(parse_labels(frame, task, findings), findings, task)
    require_learnable(frame, task, name=name)
    if task != "regression":
        findings.notes += likely_typos([each for label in frame["label"] for each in label_names(label)])
    return frame, Learnable(task, why)


def _pairs(frame: pd.DataFrame) -> tuple[pd.DataFrame, Learnable]:
    """Take rows as pairs that belong together; a label column, if there is one, says nothing of that."""
    frame = frame.assign(label=pd.Series([()] * len(frame), dtype=object, index=frame.index))
    return frame, Learnable("contrastive", "contrastive, as data.task says: each row's image and text belong together")


def _distinct(numbers: np.ndarray | None, values: pd.Series) -> np.ndarray:
    """Return a number for each row, equal exactly for equal content; what is not known is like no other."""
    known: dict[Any, int] = {}
    keys: list[Any] = []
    for row, value in enumerate(values):
        told = -1 if numbers is None else int(numbers[row])
        keys.append(("number", told) if told >= 0 else ("value", value) if value is not None else ("row", row))
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def _several(
    frame: pd.DataFrame, usable: Sequence[SeveralLabels], spec: DataSpec, findings: Findings, *, name: str
) -> tuple[pd.DataFrame, Learnable]:
    if not usable:
        decide_task([], "auto", name=name)
    tasks, why = decide_tasks(usable, spec.tasks)
    frame = findings.quarantine(frame, frame["label"].isna(), reason="label is missing")
    frame = parse_several(frame, tasks, findings)
    require_each_learnable(frame, tasks)
    frame = clean_choices(frame, findings, "multitask")
    findings.notes += likely_typos([each for label in frame["label"] for each in label_names(label)])
    return frame, Learnable("multitask", f"multitask: {why}", tasks)
