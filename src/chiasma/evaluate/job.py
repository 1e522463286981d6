"""One training of one design, as it is sent to a worker."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field

from chiasma.core.spec import Spec
from chiasma.train.design import Design

DEFAULT_JAIL_MEMORY = 3 * 2**30
Objective = Literal["error", "flops", "parameters", "latency"]


def on_task(name: str, task: str) -> str:
    """Return what a figure of a further task is called: ``error@imdb``."""
    return f"{name}@{task}"


class Job(Spec):
    """One training of one design, and what to measure.

    Attributes:
        key: Unique in the run.
        attempt: Which try this is; an answer to an earlier one is dropped.
        design: What is trained.
        dataset: Folder of the prepared dataset.
        seed: All randomness of the training follows from it.
        rung: Index on the ladder.
        fraction: Part of the design's epochs that is trained.
        metric: The metric on ``select`` from which the objective ``error`` comes.
        objectives: What is minimised.
        device: Where to train: ``auto``, ``cpu``, ``cuda``, ``mps``.
        precision: Arithmetic of the forward pass.
        compile: Translate the model for the device before its first step.
        time_limit_seconds: From the start of the build to the last measurement; None for no limit.
        finish_within_seconds: The training ends by then with the best so far and is scored, with the metric
            ``cut_short``; None lets it run its length.
        max_parameters: Designs with more parameters are rejected; None for no limit.
        keep_predictions: File for the ``select`` logits (npz), or None.
        keep_checkpoint: Folder for the trained weights, or None.
        start_from: Folder of kept weights that the training begins with, wherever name and shape agree; None begins
            from scratch.
        accept_lesser_jail: Train generated source that nobody has approved although this machine cannot keep every
            guarantee of the jail; the record says which are missing.
        jail_seconds: What a training in the jail may take in all; None for no limit but those above.
        jail_memory_bytes: What it may use beyond the data.
        also: Trainings of the same candidate on further tasks, by the tasks' names; the limits of time are this
            job's, for all together.
    """

    key: str = Field(min_length=1)
    attempt: int = Field(default=1, ge=1)
    design: Design
    dataset: str
    seed: int = Field(default=0, ge=0)
    rung: int = Field(default=0, ge=0)
    fraction: float = Field(default=1.0, gt=0, le=1)
    metric: str
    objectives: tuple[Objective, ...] = Field(default=("error", "flops", "parameters"), min_length=1)
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    time_limit_seconds: float | None = Field(default=None, gt=0)
    finish_within_seconds: float | None = Field(default=None, gt=0)
    max_parameters: int | None = Field(default=None, ge=1)
    keep_predictions: str | None = None
    keep_checkpoint: str | None = None
    start_from: str | None = None
    accept_lesser_jail: bool = False
    jail_seconds: float | None = Field(default=None, gt=0)
    jail_memory_bytes: int = Field(default=DEFAULT_JAIL_MEMORY, ge=2**26)
    also: Mapping[str, Self] = {}
