"""Begin a run, or check that an old one may be continued; shared by all verbs that make runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.errors import ChiasmaError, ConfigError, DataError
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import DataReport, prepare
from chiasma.data.signature import Target
from chiasma.experiment.captions import captioner
from chiasma.experiment.config import Budget, RunConfig
from chiasma.experiment.console import Console, stoppable
from chiasma.experiment.learned_controllers import check_controls
from chiasma.model.generated import unapproved_in
from chiasma.store.folders import cache_folder, runs_root
from chiasma.store.provenance import environment_changes, provenance
from chiasma.store.run import RunStore
from chiasma.train.design import Design
from chiasma.train.devices import pick_device
from chiasma.train.losses import check_whole_batches
from chiasma.train.metrics import measure, primary_metric

Fact = tuple[str, Mapping[str, Any]]
"""The kind of an event, and its data."""


class StoppedTooSoonError(ChiasmaError):
    """The user stopped a run that has nothing to hand back yet; it can be resumed."""


def run_cache(config: RunConfig) -> Path:
    """Return the folder for prepared data and extracted features."""
    return Path(config.run.cache).expanduser() if config.run.cache else cache_folder()


def prepare_data(config: RunConfig, console: Console) -> tuple[Dataset, DataReport]:
    """Clean, split and store the data, or reopen what an earlier run prepared from the same files and settings.

    Raises:
        DataError: The data cannot be used.
    """
    cache = run_cache(config)
    describe = captioner(
        config.data.captions,
        cache=cache,
        device=config.run.device,
        max_pixels=config.data.max_pixels,
        console=console,
    )
    return prepare(config.data, seed=config.run.seed, cache=cache, progress=stoppable(console), describe=describe)


def check_can_run(config: RunConfig, dataset: Dataset, *, searched: bool = True) -> None:
    """Refuse what would fail in every training, before there is a run.

    Args:
        config: The settings.
        dataset: The data.
        searched: Whether designs are compared with floors and with each other, or one is trained.

    Raises:
        ConfigError: There is no such device, the architecture of the settings does not fit the data, a controller
            would set nothing, or nobody can search for designs of this task, grow one, or train one in the jail.
    """
    pick_device(config.run.device)
    design = config.design(dataset.signature)
    check_task(design, dataset.signature.target, searched=searched)
    design.model.check(dataset.signature)
    check_controls(design)


def check_task(design: Design, target: Target, *, searched: bool) -> None:
    """Refuse what there is for classes, labels and quantities alone.

    Raises:
        ConfigError: Names the setting and the task.
    """
    if target.task in ("classification", "multilabel", "regression"):
        return
    asked = {
        "A search or benchmark": searched,
        "growth": design.training.growth is not None,
        "controller": design.training.controller is not None,
        "train.balance": design.training.loop.balance,
        "Source that trains in the jail": bool(unapproved_in(design)),
    }
    check_whole_batches(target, accumulation=design.training.loop.accumulation, ranks=1)
    for name, wanted in asked.items():
        if wanted:
            raise ConfigError(
                f"{name} is for classification, multilabel and regression, but the task is {target.task}: train one "
                "design without it, by `chiasma train`."
            )


def begin_run(
    config: RunConfig, dataset: Dataset, *, verb: str, command: Sequence[str], facts: Iterable[Fact] = ()
) -> RunStore:
    """Make the folder of a new run.

    Args:
        config: Everything that it is told.
        dataset: What it is about.
        verb: What it does.
        command: The command line, for the provenance.
        facts: What else a resume must know. A killed run knows all of its facts or none.

    Raises:
        StorageError: It cannot be written to.
    """
    store = RunStore.create(
        Path(config.run.folder).expanduser() if config.run.folder else runs_root(),
        verb=verb if config.run.name is None else f"{verb}-{config.run.name}",
        config=config.to_dict(),
        provenance=provenance(command, config.run.seed),
    )
    store.record_events([("verb", {"verb": verb}), data_fact(dataset), *facts])
    return store


def data_fact(dataset: Dataset, *, task: str = "") -> Fact:
    """Return what data a run is about, as an event; one of several tasks by its name."""
    data = {
        "task": task,
        "folder": str(dataset.folder),
        "fingerprint": dataset.fingerprint,
        "content": dataset.content_key,
        "signature": dataset.signature.to_dict(),
    }
    return "dataset", data


def check_same_data(store: RunStore, dataset: Dataset, *, task: str = "") -> None:
    """Refuse to continue a run on other data than it began with.

    Args:
        store: The run.
        dataset: What its source gives now.
        task: Which of several tasks.

    Raises:
        DataError: Rows, labels or splits differ.
    """
    noted = [event.data for event in store.events("dataset")]
    known = next((data for data in noted if data.get("task", "") == task), None)
    if known is None:
        raise DataError(f"{store.id} does not say on what data its task {task or 'itself'} began. Start a new run.")
    now = {"fingerprint": dataset.fingerprint, "content": dataset.content_key}
    for what, value in now.items():
        if known.get(what, value) != value:
            where = f"{store.id}, task {task}," if task else store.id
            raise DataError(
                f"The data of {where} have changed: their {what} was {known[what]} and is now {value}. Start a new run."
            )


def reopen_data(store: RunStore, config: RunConfig, console: Console) -> tuple[Dataset, DataReport]:
    """Return the data of a run that is continued, and say what else has changed since.

    Raises:
        DataError: Rows, labels or splits differ from those it began with.
    """
    dataset, report = prepare_data(config, console)
    check_same_data(store, dataset)
    say_environment_changes(store, console)
    return dataset, report


def say_environment_changes(store: RunStore, console: Console) -> None:
    """Say what differs from the machine and packages that the run began with: then bits may differ too."""
    changes = environment_changes(store.provenance)
    if changes:
        console.say(f"resuming in another environment, so results may differ in the last bits: {'; '.join(changes)}")


def deciding_metric(config: RunConfig, dataset: Dataset) -> str:
    """Return the metric that decides, once it is certain that both steer and select can be judged by it.

    Raises:
        ConfigError: The metric is not one of the task's.
        DataError: A split is empty, or its labels do not define the metric.
    """
    target = dataset.signature.target
    metric = primary_metric(target, config.evaluate.metric)
    for split in ("steer", "select"):
        rows = dataset.rows(split)
        if not len(rows):
            raise DataError(
                f"The {split} split of {dataset.source} is empty: more rows, or a larger share, are needed."
            )
        labels = dataset.labels(rows).numpy()
        if metric not in measure(np.zeros((len(rows), target.answer_width)), labels, target):
            raise DataError(
                f"{metric} is not defined on the {split} split of {dataset.source}, for example because it holds one "
                "class only: choose another metric or a larger share."
            )
    return metric


def with_budget(store: RunStore, budget: str | None) -> RunConfig:
    """Return a run's settings with its newest budget; another one is recorded, so that later resumes know it.

    Raises:
        ConfigError: The text is not a budget.
    """
    config = RunConfig.from_dict(store.config)
    if budget is not None:
        store.record_event("budget", Budget.parse(budget).to_dict())
    known = store.events("budget")
    if not known:
        return config
    newest = Budget.from_dict(known[-1].data)
    return config.model_copy(update={"run": config.run.model_copy(update={"budget": newest})})


@contextmanager
def failing(store: RunStore) -> Iterator[None]:
    """Record that a run failed where an error ends it."""
    try:
        yield
    except StoppedTooSoonError:
        raise
    except Exception:
        store.set_status("failed")
        raise
