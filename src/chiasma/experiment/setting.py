"""What stays the same through a run: its settings, data, store and workers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chiasma.core.spec import value_at
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import DataReport
from chiasma.evaluate.job import Job, on_task
from chiasma.evaluate.ladder import Ladder, Rung
from chiasma.evaluate.tasks import Task
from chiasma.experiment.companions import Companion
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.driver import Driver
from chiasma.experiment.jail_terms import jail_terms
from chiasma.experiment.writers import Answers
from chiasma.store.run import RunStore
from chiasma.train.design import Design

CONTROL = "random"


@dataclass(frozen=True)
class Setting:
    """The fixed surroundings of every stage of a run.

    Attributes:
        companions: Further tasks that every mechanism is trained on.
        answers: What a language model has answered; None where none is asked.
        slot: Where in a design that mechanism stands; None where whole designs are searched.
    """

    config: RunConfig
    dataset: Dataset
    data_report: DataReport
    store: RunStore
    driver: Driver
    console: Console
    metric: str
    ladder: Ladder
    task: Task
    companions: tuple[Companion, ...] = ()
    slot: str | None = None
    answers: Answers | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """Return what is minimised: the error on every task, then the costs."""
        error, *costs = self.config.evaluate.objectives
        return (error, *(on_task(error, each.name) for each in self.companions), *costs)

    def with_rungs(self, fractions: Sequence[float]) -> "Setting":
        """Return the same setting with another ladder."""
        rungs = tuple(Rung(fraction=fraction) for fraction in fractions)
        return replace(self, ladder=Ladder(rungs=rungs, eta=self.ladder.eta))

    def make_job(
        self,
        *,
        key: str,
        design: Design,
        seed: int,
        fraction: float,
        rung: int,
        keep: Path | None = None,
        start: Path | None = None,
        time_limit_seconds: float | None = None,
    ) -> Job:
        """Return the job of one training, on all tasks that the run has.

        What is on the last rung is kept, so that there always is a best so far. ``start`` is the folder of a kept
        training to begin with.
        """
        if keep is None and rung == self.ladder.top:
            keep = self.kept(key)
        also: dict[str, Job] = {}
        if self.slot is not None:
            mechanism = value_at(design, self.slot)
            for each in self.companions:
                also[each.name] = each.job(key, mechanism, seed=seed, fraction=fraction, keep=keep, start=start)
        return self.task.job(
            key,
            design,
            seed=seed,
            fraction=fraction,
            rung=rung,
            time_limit_seconds=time_limit_seconds,
            keep_checkpoint=str(keep) if keep else None,
            keep_predictions=str(keep / "select.npz") if keep else None,
            start_from=str(start) if start else None,
            also=also,
        )

    def kept(self, key: str) -> Path:
        """Return the folder in which a job's checkpoint and predictions are kept."""
        return self.store.path / "trained" / key.replace("/", "-")


def make_setting(
    config: RunConfig,
    dataset: Dataset,
    data_report: DataReport,
    *,
    metric: str,
    driver: Driver,
    answers: Answers | None = None,
) -> Setting:
    """Return the surroundings that the settings describe."""
    evaluate, search = config.evaluate, config.search
    measured = dict.fromkeys((*evaluate.objectives, *search.limits))
    task = Task(
        dataset=str(dataset.folder),
        metric=metric,
        objectives=tuple(measured),
        device=config.run.device,
        precision=config.run.precision,
        compile=config.run.compile,
        max_parameters=evaluate.max_parameters,
        **jail_terms(config),
    )
    ladder = Ladder(rungs=tuple(Rung(fraction=part) for part in evaluate.rungs), eta=evaluate.eta)
    return Setting(
        config, dataset, data_report, driver.store, driver, driver.console, metric, ladder, task, answers=answers
    )
