"""``benchmark``: a discovered attention, or a part of the training, on tasks and paired seeds, on sealed tests."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.core.files import read_json, write_json
from chiasma.core.outcome import Rejected, Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import DataReport
from chiasma.experiment.ablation import Trained, check_parts, train_ablated
from chiasma.experiment.backbones import with_backbones
from chiasma.experiment.beginning import (
    StoppedTooSoonError,
    begin_run,
    check_can_run,
    check_same_data,
    data_fact,
    deciding_metric,
    failing,
    prepare_data,
    say_environment_changes,
)
from chiasma.experiment.benchmark_judge import (
    CANDIDATE,
    Benchmark,
    BenchmarkTask,
    Order,
    benchmark_notes,
    judge_task,
)
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.driver import Clock, Driver, StopRequestedError, Work, spent_seconds
from chiasma.experiment.executors import check_executor, make_executor, with_executor
from chiasma.experiment.finals import ArmDesign, TrainedArm, Training
from chiasma.experiment.fusion_search import FusionPart, around_fusion
from chiasma.experiment.learned_controllers import check_controls
from chiasma.experiment.matching import matched
from chiasma.experiment.mechanism import around_slot, slot_path
from chiasma.experiment.runs import BENCHMARK_FILE
from chiasma.experiment.search_loop import training_key
from chiasma.experiment.setting import make_setting
from chiasma.experiment.tracking import refuse_tracking
from chiasma.model.attention import Mean
from chiasma.model.cost import cost
from chiasma.model.fusion.composed.known import document_002_champion
from chiasma.search.attention_space import attention_slots, short_slot
from chiasma.search.fusion_space import SLOT
from chiasma.store.logs import log_to
from chiasma.store.run import RunStore
from chiasma.train.design import Design


@dataclass(frozen=True)
class BenchmarkResult:
    """What the verb hands back."""

    run_path: Path
    benchmark: Benchmark


def benchmark(order: Order, *, console: Console, command: Sequence[str] = ()) -> BenchmarkResult:
    """Train every arm on every task and seed, open the test splits once each, and compare.

    Raises:
        ChiasmaError: A task's data or settings cannot be used; nothing has been trained.
    """
    tasks = {name: with_backbones(config, console) for name, config in order.tasks.items()}
    order = order.model_copy(update={"tasks": tasks})
    prepared = {name: _prepare(order, config, console) for name, config in tasks.items()}
    for name, (config, dataset, _) in prepared.items():
        _check_fits(order, name, config, dataset)
    first = next(iter(order.tasks))
    config, (_, dataset, _) = order.tasks[first], prepared[first]
    noted = [data_fact(each, task=name) for name, (_, each, _) in prepared.items()]
    facts = [("benchmark", order.to_dict()), *noted]
    with begin_run(config, dataset, verb="benchmark", command=command, facts=facts) as store, failing(store):
        return _drive(order, prepared, store, console=console, clock=Clock())


def resume(
    path: Path, *, executor: str | None = None, ray_address: str | None = None, console: Console
) -> BenchmarkResult:
    """Continue an interrupted benchmark: what was trained is not trained again."""
    with RunStore.open(path, write=True) as store:
        order = Order.from_dict(store.events("benchmark")[0].data)
        configs = {name: with_executor(config, executor, ray_address) for name, config in order.tasks.items()}
        prepared = {name: _prepare(order, config, console) for name, config in configs.items()}
        for name, (_, dataset, _) in prepared.items():
            check_same_data(store, dataset, task=name)
        say_environment_changes(store, console)
        with failing(store):
            clock = Clock(spent_before=spent_seconds(store), started=time.monotonic())
            return _drive(order, prepared, store, console=console, clock=clock)


def read_benchmark(run: Path) -> Benchmark:
    """Return what a benchmark measured."""
    return Benchmark.from_dict(read_json(run / BENCHMARK_FILE))


def _prepare(order: Order, config: RunConfig, console: Console) -> tuple[RunConfig, Dataset, DataReport]:
    refuse_tracking(config, "benchmark")
    check_executor(config.run)
    dataset, report = prepare_data(config, console)
    if order.attention is not None:
        config = around_slot(config, dataset.signature)
    elif order.fusion is not None:
        config = around_fusion(config, dataset.signature)
    check_can_run(config, dataset)
    return config, dataset, report


def _check_fits(order: Order, name: str, config: RunConfig, dataset: Dataset) -> None:
    """Refuse a candidate that cannot stand in a task's slot, or a part that is not there, before anything is begun.

    Raises:
        ConfigError: Names the task or the part.
    """
    if order.fusion is not None:
        return
    if order.attention is None:
        design = config.design(dataset.signature)
        check_parts(order.ablate, design)
        for part in order.ablate:
            check_controls(replace_at(design, f"training.{part}", None))
        return
    slot = slot_path(config, dataset.signature)
    if order.attention.self_only and attention_slots(config.design(dataset.signature))[slot]:
        raise ConfigError(
            f"{order.reference} feeds keys where queries go, so {short_slot(slot)} of task {name}, where one modality "
            "looks at another, cannot use it. Leave the task out."
        )


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
            tasks, found = _trained(order, tasks, driver)
        except StopRequestedError:
            driver.drop()
            store.set_status("stopped")
            raise StoppedTooSoonError(
                f"Stopped; what is trained is kept and no test split was opened. Go on: chiasma resume {store.path}"
            ) from None
    results = tuple(judge_task(task, found[task.name], order) for task in tasks)
    result = Benchmark(
        run=store.id,
        candidate=order.reference,
        formula=order.formula,
        seeds=order.seeds,
        tasks=results,
        seconds=clock.elapsed(),
        notes=tuple(benchmark_notes(order, results)),
    )
    write_json(store.path / BENCHMARK_FILE, result.to_dict())
    store.set_status("finished")
    return BenchmarkResult(store.path, result)


def _task(
    name: str, order: Order, config: RunConfig, dataset: Dataset, report: DataReport, *, driver: Driver
) -> BenchmarkTask:
    """Return a task with its arms recorded; arms that are the same design are trained once."""
    metric = deciding_metric(config, dataset)
    setting = make_setting(config, dataset, report, metric=metric, driver=driver)
    base = config.design(dataset.signature)
    if order.fusion is not None:
        slot, designs = SLOT, _fusions(order, base)
    else:
        slot = "" if order.attention is None else slot_path(config, dataset.signature)
        designs = _designs(order, base, slot, dataset)
    arms: list[ArmDesign] = []
    same: dict[str, str] = {}
    for arm, (design, words) in designs.items():
        twin = next((each.name for each in arms if each.design == design), None)
        if twin is not None:
            same[arm] = twin
            continue
        arms.append(_recorded(driver, name, arm, design, words))
    return BenchmarkTask(name, setting, tuple(arms), same, slot)


def _recorded(driver: Driver, task: str, arm: str, design: Design, words: str) -> ArmDesign:
    number = driver.store.add_candidate(
        design.content_hash(),
        proposer="benchmark",
        generation=-1,
        genome={"task": task, "arm": arm},
        design=design.to_dict(),
        edit=f"{task}: {words}",
    )
    return ArmDesign(arm, "floor", words, number, design, "benchmark")


def _designs(order: Order, base: Design, slot: str, dataset: Dataset) -> dict[str, tuple[Design, str]]:
    if order.attention is None:
        return {CANDIDATE: (base, "the design of the settings")}
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


def _fusions(order: Order, base: Design) -> dict[str, tuple[Design, str]]:
    """Return the candidate and what it is compared with, all around the same encoders."""
    assert order.fusion is not None
    known = FusionPart(order.fusion).baselines(base)
    known = {**known, "champion": (replace_at(base, SLOT, document_002_champion()), "document 002's champion")}
    if unknown := [name for name in order.arms if name not in known]:
        raise ConfigError(
            f"--arms: a fusion is compared with concat, cross_attention, champion, but got {', '.join(unknown)}."
        )
    candidate = replace_at(base, SLOT, order.fusion)
    return {CANDIDATE: (candidate, "the candidate"), **{name: known[name] for name in order.arms}}


def _trained(order: Order, tasks: Sequence[BenchmarkTask], driver: Driver) -> tuple[Sequence[BenchmarkTask], Trained]:
    """Return the tasks with all their arms, and their trainings."""
    train = partial(_train, order, driver=driver)
    if not order.ablate:
        return tasks, train(tasks)
    done = [
        train_ablated(order, task, driver, train=train, add=partial(_recorded, driver, task.name)) for task in tasks
    ]
    return [task for task, _ in done], {name: found for _, each in done for name, found in each.items()}


def _train(order: Order, tasks: Sequence[BenchmarkTask], driver: Driver) -> dict[str, dict[str, TrainedArm]]:
    """Train every arm on every task, seed after seed, so that an interruption leaves whole pairs."""
    places: dict[str, tuple[BenchmarkTask, ArmDesign, int, Path]] = {}
    for seed in range(order.seeds):
        for task in tasks:
            for arm in task.arms:
                folder = driver.store.path / "trained" / f"{task.name}-{arm.candidate}-{seed}"
                job = task.setting.make_job(
                    key=training_key(f"benchmark {task.name}", arm.candidate, seed, 1.0),
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
        if isinstance(item.outcome, Rejected):
            driver.console.say(f"{task.name}, seed {seed + 1}, {arm.name}: rejected, {item.outcome.reason}")
            continue
        if not isinstance(item.outcome, Scored):
            raise ChiasmaError(f"{task.name}, {arm.name}, seed {seed + 1} was not trained: {item.outcome.error}")
        trained[task.name].setdefault(arm.name, []).append(Training(folder, seed, item.outcome, item.seconds))
        error = item.outcome.objectives["error"]
        driver.console.say(f"{task.name}, seed {seed + 1}, {arm.name}: error on select {error:.4f}")

    def by_seed(task: BenchmarkTask, arm: ArmDesign) -> TrainedArm:
        found = trained[task.name].get(arm.name, [])
        return TrainedArm(arm, tuple(sorted(found, key=lambda training: training.round)))

    return {task.name: {arm.name: by_seed(task, arm) for arm in task.arms} for task in tasks}
