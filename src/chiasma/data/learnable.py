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
        return make_targets(labels, self.tasks) if self.tasks else make_target(labels, self.task, name=name)

    def encode(self, frame: pd.DataFrame, target: Target) -> np.ndarray:
        """Return the labels of all rows as numbers; quantities in their own units."""
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
    usable = [value for value in frame["label"] if value is not None]
    if isinstance(spec.columns.label, tuple) and len(spec.columns.label) > 1:
        return _several(frame, usable, spec, findings, name=name)
    task, why = decide_task(usable, spec.task, name=name)
    frame = clean_choices(parse_labels(frame, task, findings), findings, task)
    require_learnable(frame, task, name=name)
    if task != "regression":
        findings.notes += likely_typos([each for label in frame["label"] for each in label_names(label)])
    return frame, Learnable(task, why)


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
