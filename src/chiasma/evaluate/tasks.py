"""What all trainings of a search have in common."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from chiasma.core.spec import Spec
from chiasma.evaluate.job import DEFAULT_JAIL_MEMORY, Job, Objective
from chiasma.train.design import Design


class Task(Spec):
    """The data, the measure and the limits that every candidate meets alike; attributes as in :class:`Job`."""

    dataset: str
    metric: str
    objectives: tuple[Objective, ...] = Field(default=("error", "flops", "parameters"), min_length=1)
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    max_parameters: int | None = Field(default=None, ge=1)
    accept_lesser_jail: bool = False
    jail_seconds: float | None = Field(default=None, gt=0)
    jail_memory_bytes: int = Field(default=DEFAULT_JAIL_MEMORY, ge=2**26)

    def job(
        self,
        key: str,
        design: Design,
        *,
        seed: int,
        rung: int = 0,
        fraction: float = 1.0,
        attempt: int = 1,
        time_limit_seconds: float | None = None,
        keep_predictions: str | None = None,
        keep_checkpoint: str | None = None,
        start_from: str | None = None,
        also: Mapping[str, Job] | None = None,
    ) -> Job:
        """Return the training of one design under this task; arguments as in :class:`Job`."""
        return Job(
            key=key,
            attempt=attempt,
            time_limit_seconds=time_limit_seconds,
            design=design,
            seed=seed,
            rung=rung,
            fraction=fraction,
            keep_predictions=keep_predictions,
            keep_checkpoint=keep_checkpoint,
            start_from=start_from,
            also=also or {},
            **self.model_dump(),
        )
