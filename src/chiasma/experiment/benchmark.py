"""``benchmark``: a discovered attention against the standard one, over tasks and paired seeds, on sealed tests."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.core.files import read_json, write_json
from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import Spec, replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import DataReport
from chiasma.experiment.arms import contestant_of, contestant_of_floor
from chiasma.experiment.beginning import (
    StoppedTooSoonError,
    begin_run,
    check_can_run,
    check_same_data,
    deciding_metric,
    failing,
    prepare_data,
)
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.driver import Clock, Driver, StopRequestedError, Work, spent_seconds
from chiasma.experiment.executors import check_executor, make_executor, with_executor
from chiasma.experiment.finals import ArmDesign, TrainedArm, Training
from chiasma.experiment.floor_thread import ClassicalFloors
from chiasma.experiment.matching import matched
from chiasma.experiment.mechanism import around_slot, slot_path
from chiasma.experiment.results import Gain, Interval
from chiasma.experiment.runs import BENCHMARK_FILE
from chiasma.experiment.sealed import open_test, opening_words
from chiasma.experiment.search_loop import training_key
from chiasma.experiment.setting import Setting, make_setting
from chiasma.experiment.statistics import Bootstrap
from chiasma.model.attention import Mean
from chiasma.model.cost import cost
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.formula import formula
from chiasma.search.attention_space import attention_slots, short_slot
from chiasma.store.folders import ledger_folder
from chiasma.store.logs import log_to
from chiasma.store.run import RunStore
from chiasma.train.design import Design

CANDIDATE = "candidate"
ArmName = Literal["standard", "matched_flops", "matched_size", "mean"]


class BenchmarkArm(Spec):
    """One attention on one task, over all seeds.

    Attributes:
        name: ``candidate``, ``standard``, ``matched_flops``, ``matched_size``, ``mean``, or a classical floor.
        dim: Width of the model; None for a classical floor.
        test: The metric on the test split with its interval over groups and seeds.
        gain: The candidate's gain over this arm, paired; None for the candidate.
        same_as: The arm whose trainings this one shares, because it is the same design.
    """

    name: str
    description: str
    dim: int | None = None
    parameters: int | None = None
    flops: float | None = None
    seconds: float = 0.0
    seeds: int = 1
    test: Interval
    gain: Gain | None = None
    same_as: str | None = None


class TaskResult(Spec):
    """One task: its arms, and what a reader must know about its test split."""

    task: str
    source: str
    slot: str
    metric: str
    test_examples: int
    opening: int
    truncated: str = ""
    arms: tuple[BenchmarkArm, ...]


class Benchmark(Spec):
    """Everything that was measured; the content of ``benchmark.json``."""

    run: str
    candidate: str
    formula: str
    seeds: int
    tasks: tuple[TaskResult, ...]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchmarkResult:
    """What the verb hands back."""

    run_path: Path
    benchmark: Benchmark


class Order(Spec):
    """What a benchmark was asked for; recorded, so that a resume does the same.

    Attributes:
        reference: How the user named the candidate.
        attention: The candidate's attention.
        tasks: Settings of each task by name.
        seeds: Trainings of every arm on every task.
        arms: What the candidate is compared with.
    """

    reference: str
    attention: GraphAttention
    tasks: Mapping[str, RunConfig]
    seeds: int
    arms: tuple[ArmName, ...]


@dataclass(frozen=True)
class _Task:
    name: str
    setting: Setting
    arms: tuple[ArmDesign, ...]
    same: Mapping[str, str]
    slot: str


def benchmark(order: Order, *, console: Console, command: Sequence[str] = ()) -> BenchmarkResult:
    """Train every arm on every task and seed, open the test splits once each, and compare.

    Raises:
        ChiasmaError: A task's data or settings cannot be used; nothing has been trained.
    """
    prepared = {name: _prepare(config, console) for name, config in order.tasks.items()}
    first = next(iter(order.tasks))
    config, (_, dataset, _) = order.tasks[first], prepared[first]
    with begin_run(config, dataset, verb="benchmark", command=command) as store, failing(store):
        store.record_event("benchmark", order.to_dict())
        return _drive(order, prepared, store, console=console, clock=Clock())


def resume(
    path: Path, *, executor: str | None = None, ray_address: str | None = None, console: Console
) -> BenchmarkResult:
    """Continue an interrupted benchmark: what was trained is not trained again."""
    with RunStore.open(path, write=True) as store:
        order = Order.from_dict(store.events("benchmark")[0].data)
        configs = {name: with_executor(config, executor, ray_address) for name, config in order.tasks.items()}
        prepared = {name: _prepare(config, console) for name, config in configs.items()}
        check_same_data(store, next(iter(prepared.values()))[1])
        with failing(store):
            clock = Clock(spent_before=spent_seconds(store), started=time.monotonic())
            return _drive(order, prepared, store, console=console, clock=clock)


def read_benchmark(run: Path) -> Benchmark:
    """Return what a benchmark measured."""
    return Benchmark.from_dict(read_json(run / BENCHMARK_FILE))


def _prepare(config: RunConfig, console: Console) -> tuple[RunConfig, Dataset, DataReport]:
    check_executor(config.run)
    dataset, report = prepare_data(config, console)
    config = around_slot(config, dataset.signature)
    check_can_run(config, dataset)
    return config, dataset, report


def _drive(
    order: Order,
    prepared: Mapping[str, tuple[RunConfig, Dataset, DataReport]],
    store: RunStore,
    *,
    console: Console,
    clock: Clock,
) -> BenchmarkResult:
    run = next(iter(prepared.values()))[0].run
    store.set_status("running")
    with log_to(store.path), make_executor(run, log=store.path / "workers.log") as executor:
        console.say(f"run {store.id} in {store.path}")
        driver = Driver(store, executor, console=console, clock=clock, workers=run.workers)
        tasks = [_task(name, order, *found, driver=driver) for name, found in prepared.items()]
        try:
            found = _train(order, tasks, driver)
        except StopRequestedError:
            driver.drop()
            store.set_status("stopped")
            raise StoppedTooSoonError(
                f"Stopped; what is trained is kept and no test split was opened. Go on: chiasma resume {store.path}"
            ) from None
    results = tuple(_judge(order, task, found[task.name]) for task in tasks)
    result = Benchmark(
        run=store.id,
        candidate=order.reference,
        formula=_words(order.attention),
        seeds=order.seeds,
        tasks=results,
        seconds=clock.elapsed(),
        notes=tuple(_notes(order, results)),
    )
    write_json(store.path / BENCHMARK_FILE, result.to_dict())
    store.set_status("finished")
    return BenchmarkResult(store.path, result)


def _task(name: str, order: Order, config: RunConfig, dataset: Dataset, report: DataReport, *, driver: Driver) -> _Task:
    """Return a task with its arms recorded; arms that are the same design are trained once."""
    metric = deciding_metric(config, dataset)
    setting = make_setting(config, dataset, report, metric=metric, driver=driver)
    slot = slot_path(config, dataset.signature)
    base = config.design(dataset.signature)
    if order.attention.self_only and attention_slots(base)[slot]:
        raise ConfigError(
            f"{order.reference} feeds keys where queries go, so {short_slot(slot)} of task {name}, where one modality "
            "looks at another, cannot use it. Leave the task out."
        )
    designs = _designs(order, base, slot, dataset)
    arms: list[ArmDesign] = []
    same: dict[str, str] = {}
    for arm, (design, words) in designs.items():
        twin = next((each.name for each in arms if each.design == design), None)
        if twin is not None:
            same[arm] = twin
            continue
        number = driver.store.add_candidate(
            design.content_hash(),
            proposer="benchmark",
            generation=-1,
            genome={"task": name, "arm": arm},
            design=design.to_dict(),
            edit=f"{name}: {words}",
        )
        arms.append(ArmDesign(arm, "floor", words, number, design, "benchmark"))
    return _Task(name, setting, tuple(arms), same, slot)


def _designs(order: Order, base: Design, slot: str, dataset: Dataset) -> dict[str, tuple[Design, str]]:
    candidate = replace_at(base, slot, order.attention)
    size = cost(candidate.model, dataset.signature)
    at = partial(matched, base, dataset.signature)
    makers = {
        "standard": lambda: (base, "standard attention at the same width"),
        "matched_flops": lambda: (
            at(measure=lambda found: found.flops, target=size.flops),
            "standard attention at the width of as many FLOPs",
        ),
        "matched_size": lambda: (
            at(measure=lambda found: found.parameters, target=size.parameters),
            "standard attention at the width of as many parameters",
        ),
        "mean": lambda: (replace_at(base, slot, Mean()), "the mean of the values in place of attention"),
    }
    return {CANDIDATE: (candidate, "the candidate"), **{name: makers[name]() for name in order.arms}}


def _train(order: Order, tasks: Sequence[_Task], driver: Driver) -> dict[str, dict[str, TrainedArm]]:
    """Train every arm on every task, seed after seed, so that an interruption leaves whole pairs."""
    places: dict[str, tuple[_Task, ArmDesign, int, Path]] = {}
    for seed in range(order.seeds):
        for task in tasks:
            for arm in task.arms:
                folder = driver.store.path / "trained" / f"{arm.candidate}-{seed}"
                job = task.setting.make_job(
                    key=training_key("benchmark", arm.candidate, seed, 1.0),
                    design=arm.design,
                    seed=derive_seed(task.setting.config.run.seed, "benchmark", seed),
                    fraction=1.0,
                    rung=0,
                    keep=folder,
                )
                places[job.key] = (task, arm, seed, folder)
                driver.submit(Work(job, arm.candidate, "final"))
    trained: dict[str, dict[str, list[Training]]] = {task.name: {} for task in tasks}
    while driver.pending:
        item = driver.next()
        if item is None:
            continue
        task, arm, seed, folder = places[item.work.job.key]
        if not isinstance(item.outcome, Scored):
            raise ChiasmaError(f"{task.name}, {arm.name}, seed {seed + 1} was not trained: {item.outcome.to_dict()}")
        trained[task.name].setdefault(arm.name, []).append(Training(folder, seed, item.outcome, item.seconds))
        error = item.outcome.objectives["error"]
        driver.console.say(f"{task.name}, seed {seed + 1}, {arm.name}: error on select {error:.4f}")
    by_seed = partial(sorted, key=lambda training: training.round)
    return {
        task.name: {arm.name: TrainedArm(arm, tuple(by_seed(trained[task.name][arm.name]))) for arm in task.arms}
        for task in tasks
    }


def _judge(order: Order, task: _Task, trained: Mapping[str, TrainedArm]) -> TaskResult:
    """Open the task's test split once for all arms."""
    setting, dataset = task.setting, task.setting.dataset
    with ClassicalFloors(dataset, seed=setting.config.run.seed) as classical:
        classical.start()
        floors = classical.fitted()
    rows, before = open_test(
        dataset, ledger_folder=ledger_folder(), run=f"{setting.store.id}, {task.name}", verb="benchmark", once=True
    )
    setting.console.say(f"{task.name}: {opening_words(before)}")
    evaluate = setting.config.evaluate
    bootstrap = Bootstrap(
        labels=dataset.labels(rows).numpy(),
        groups=dataset.groups(rows),
        target=dataset.signature.target,
        target_scale=dataset.target_scale,
        level=evaluate.level,
        resamples=evaluate.resamples,
        seed=setting.config.run.seed,
    )
    contestants = {
        name: contestant_of(arm, dataset, metric=setting.metric, winner=False) for name, arm in trained.items()
    }
    contestants |= {f.name: contestant_of_floor(f, dataset, metric=setting.metric) for f in floors}
    outputs = {
        name: each.judged(each.outputs(rows, device=setting.config.run.device), setting.metric)
        for name, each in contestants.items()
    }
    arms = [_arm(name, trained, outputs, bootstrap, setting.metric) for name in trained]
    arms += [_floor(f.name, f.description, f.seconds, outputs, bootstrap, setting.metric) for f in floors]
    shared = {arm.name: arm for arm in arms}
    arms += [shared[twin].model_copy(update={"name": name, "same_as": twin}) for name, twin in task.same.items()]
    cut = [f"{count:,} {words}" for words, count in setting.data_report.counts.items() if words.startswith("texts cut")]
    return TaskResult(
        task=task.name,
        source=dataset.source,
        slot=short_slot(task.slot),
        metric=setting.metric,
        test_examples=len(rows),
        opening=before,
        truncated="; ".join(cut),
        arms=tuple(arms),
    )


def _arm(
    name: str, trained: Mapping[str, TrainedArm], outputs: Mapping[str, np.ndarray], bootstrap: Bootstrap, metric: str
) -> BenchmarkArm:
    arm = trained[name]
    gain = bootstrap.gain_against(name, outputs[CANDIDATE], outputs[name], metric=metric)
    known = {**arm.best.outcome.metrics, **arm.best.outcome.objectives}
    return BenchmarkArm(
        name=name,
        description=arm.arm.description,
        dim=arm.arm.design.model.dim,
        parameters=int(known["parameters"]),
        flops=known["flops"],
        seconds=sum(training.seconds for training in arm.trainings),
        seeds=len(arm.trainings),
        test=bootstrap.interval(outputs[name], metric),
        gain=None if name == CANDIDATE else gain,
    )


def _floor(
    name: str, words: str, seconds: float, outputs: Mapping[str, np.ndarray], bootstrap: Bootstrap, metric: str
) -> BenchmarkArm:
    gain = bootstrap.gain_against(name, outputs[CANDIDATE], outputs[name], metric=metric)
    test = bootstrap.interval(outputs[name], metric)
    return BenchmarkArm(name=name, description=words, seconds=seconds, test=test, gain=gain)


def _words(attention: GraphAttention) -> str:
    return f"{formula(attention.graph)} with {', '.join(attention.projections.learned) or 'no projections'}"


def _notes(order: Order, results: Sequence[TaskResult]) -> list[str]:
    notes = [f"Every arm had the same examples, epochs and {order.seeds} paired seed(s); training time may differ."]
    if order.seeds < 3:
        notes.append("With fewer than three seeds the intervals say little about the luck of training.")
    for result in results:
        mean = next((arm for arm in result.arms if arm.name == "mean"), None)
        standard = next((arm for arm in result.arms if arm.name == "standard"), None)
        if mean and standard and standard.test.low <= mean.test.high:
            notes.append(f"{result.task}: standard attention is not clearly better than the mean of the values.")
        if result.truncated:
            notes.append(f"{result.task}: {result.truncated}.")
    return notes
