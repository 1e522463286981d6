"""Further tasks on which every mechanism of a search is trained: their errors are objectives of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.evaluate.job import Job
from chiasma.evaluate.tasks import Task
from chiasma.experiment.beginning import Fact, check_can_run, check_same_data, data_fact, deciding_metric, prepare_data
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.jail_terms import jail_terms
from chiasma.experiment.mechanism import around_slot, slot_path
from chiasma.model.attention import AttentionSpec
from chiasma.search.attention_space import attention_slots
from chiasma.store.run import RunStore
from chiasma.train.design import Design

EVENT = "companions"


@dataclass(frozen=True)
class Companion:
    """One further task, and the place in its own design where a mechanism is put.

    Attributes:
        name: What its figures are called by: ``error@name``.
        base: Its design, with standard attention.
        slot: The dotted path of the mechanism in that design.
    """

    name: str
    dataset: Dataset
    task: Task
    base: Design
    slot: str

    @property
    def crossed(self) -> bool:
        """Return whether queries and keys are different sequences there."""
        return attention_slots(self.base)[self.slot]

    def job(
        self, key: str, attention: AttentionSpec, *, seed: int, fraction: float, keep: Path | None, start: Path | None
    ) -> Job:
        """Return the training of this task's design with a mechanism in it; what is kept lies in a folder below."""
        return self.task.job(
            f"{key}@{self.name}",
            replace_at(self.base, self.slot, attention),
            seed=seed,
            fraction=fraction,
            keep_checkpoint=str(keep / self.name) if keep else None,
            keep_predictions=str(keep / self.name / "select.npz") if keep else None,
            start_from=str(start / self.name) if start else None,
        )


def prepare_companions(configs: Mapping[str, RunConfig], console: Console) -> tuple[Companion, ...]:
    """Prepare the data of further tasks, and check that each can be trained.

    Raises:
        ChiasmaError: A task's data or settings cannot be used.
    """
    return tuple(_prepared(name, config, console) for name, config in configs.items())


def companion_facts(configs: Mapping[str, RunConfig], companions: Sequence[Companion]) -> list[Fact]:
    """Return which further tasks a run has, and on what data, so that a resume has the same."""
    settings = {name: config.to_dict() for name, config in configs.items()}
    return [(EVENT, settings), *(data_fact(each.dataset, task=each.name) for each in companions)]


def recorded_companions(store: RunStore, console: Console) -> tuple[Companion, ...]:
    """Return the further tasks that a run began with.

    Raises:
        DataError: Their data have changed.
    """
    noted = store.events(EVENT)
    configs = {name: RunConfig.from_dict(config) for name, config in noted[0].data.items()} if noted else {}
    companions = prepare_companions(configs, console)
    for each in companions:
        check_same_data(store, each.dataset, task=each.name)
    return companions


def _prepared(name: str, config: RunConfig, console: Console) -> Companion:
    if "@" in name or "/" in name:
        raise ConfigError(f"{name!r} cannot name a task: figures and folders are called by it.")
    dataset, _ = prepare_data(config, console)
    config = around_slot(config, dataset.signature)
    check_can_run(config, dataset)
    task = Task(
        dataset=str(dataset.folder),
        metric=deciding_metric(config, dataset),
        objectives=("error",),
        device=config.run.device,
        precision=config.run.precision,
        compile=config.run.compile,
        max_parameters=config.evaluate.max_parameters,
        **jail_terms(config),
    )
    return Companion(name, dataset, task, config.design(dataset.signature), slot_path(config, dataset.signature))
