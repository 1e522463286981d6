"""The product's main job: floors, search, finals, the sealed test, the report, all within one budget."""

import time
from collections.abc import Sequence
from pathlib import Path

from chiasma.data.dataset import Dataset
from chiasma.data.prepare import DataReport
from chiasma.experiment import planning, stages
from chiasma.experiment.backbones import with_backbones
from chiasma.experiment.beginning import (
    begin_run,
    check_can_run,
    deciding_metric,
    failing,
    prepare_data,
    reopen_data,
    with_budget,
)
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.driver import Clock, Finished, StopRequestedError, spent_seconds
from chiasma.experiment.executors import check_executor, with_executor
from chiasma.experiment.finals import ArmDesign, TrainedArm, full_cost
from chiasma.experiment.floor_thread import ClassicalFloors
from chiasma.experiment.fusing import proposing, proposing_words
from chiasma.experiment.judge import Evidence, judge
from chiasma.experiment.plan import SearchPlan
from chiasma.experiment.results import RunResult
from chiasma.experiment.setting import Setting, make_setting
from chiasma.experiment.sitting import sitting
from chiasma.experiment.tracking import refuse_tracking
from chiasma.experiment.writers import with_writer
from chiasma.search.archive import SharedArchive
from chiasma.store.run import RunStore


def evolve(
    config: RunConfig, *, console: Console, command: Sequence[str] = (), started: float | None = None
) -> RunResult:
    """Search for the best classifier that the budget buys, prove its gain on the sealed test, and save both.

    Args:
        config: Everything the run is told.
        console: Where progress goes, and whether the user wants to stop.
        command: The command line, for the provenance.
        started: From when the budget counts (``time.monotonic()``), such as the start of the process; None for now.

    Raises:
        ChiasmaError: The data or a setting cannot be used; nothing has been trained.
    """
    clock = Clock() if started is None else Clock(started=started)
    refuse_tracking(config, "evolve")
    config = with_writer(config)
    check_executor(config.run)
    config = with_backbones(config, console)
    dataset, report = prepare_data(config, console)
    metric = deciding_metric(config, dataset)
    check_can_run(config, dataset)
    with begin_run(config, dataset, verb="evolve", command=command) as store, failing(store):
        return _drive(config, dataset, report, metric=metric, store=store, console=console, clock=clock)


def resume(
    path: Path,
    *,
    budget: str | None = None,
    executor: str | None = None,
    ray_address: str | None = None,
    console: Console,
    started: float | None = None,
) -> RunResult:
    """Continue an interrupted or killed search to the result that it would have had.

    Args:
        path: The run's folder.
        budget: A larger budget than the run was made with; None for the same.
        executor: Where workers run in this sitting, ``local`` or ``ray``; None for where the run began.
        ray_address: The Ray cluster to join in this sitting.
        console: Where progress goes, and whether the user wants to stop.
        started: From when this sitting counts (``time.monotonic()``), such as the start of the process; None for now.

    Raises:
        RunBusyError: Another process is writing to the run.
        DataError: The data have changed since.
        ConfigError: The executor does not exist, is not installed, or cannot be reached.
    """
    started = time.monotonic() if started is None else started
    with RunStore.open(path, write=True) as store:
        config = with_executor(with_budget(store, budget), executor, ray_address)
        check_executor(config.run)
        dataset, report = reopen_data(store, config, console)
        metric = deciding_metric(config, dataset)
        clock = Clock(spent_before=spent_seconds(store), started=started)
        with failing(store):
            return _drive(config, dataset, report, metric=metric, store=store, console=console, clock=clock)


def _patience(setting: Setting, search_plan: SearchPlan, interrupted: bool) -> float | None:
    """Return how long the classical floors may still take: no time after Ctrl-C, what is left of a time budget.

    A run that is resumed near its end or after it fits them again, and waits for those that it had.
    """
    if interrupted:
        return 0.0
    if search_plan.finish_by is None or setting.driver.clock.spent_before > search_plan.finish_by / 2:
        return None
    return max(0.0, search_plan.finish_by - setting.driver.clock.elapsed())


def _drive(
    config: RunConfig,
    dataset: Dataset,
    report: DataReport,
    *,
    metric: str,
    store: RunStore,
    console: Console,
    clock: Clock,
) -> RunResult:
    with sitting(config, store, console=console, clock=clock) as (driver, answers):
        setting = make_setting(config, dataset, report, metric=metric, driver=driver, answers=answers)
        evidence = _gather(setting)
    result = judge(setting, evidence)
    store.set_status("stopped" if evidence.interrupted else "finished")
    return result


def _gather(setting: Setting) -> Evidence:
    """Run every stage, or as many as there is time for; whatever happens, there is a best so far."""
    archive = SharedArchive(setting.config.evaluate.objectives)
    finished: list[Finished] = []
    floors: list[ArmDesign] = []
    arms: list[ArmDesign] = []
    trained: list[TrainedArm] = []
    search_plan, final_plan, loop, interrupted = SearchPlan(), None, None, False
    classical = ClassicalFloors(setting.dataset, seed=setting.config.run.seed)
    with classical:
        try:
            search_plan = planning.plan(setting)
            setting = setting.with_rungs(search_plan.rungs)
            classical.start()
            space = stages.make_space(setting, search_plan)
            first = stages.first_arms(setting, space)
            floors = [arm for arm in first if arm.role == "floor"]
            finished += stages.train_first(setting, first, search_plan, archive)
            search_plan = planning.lengthen(setting, search_plan, first, finished)
            proposers = stages.design_proposers(setting, space)
            allocator = stages.paying_proposers(setting, proposers)
            loop = stages.make_search(
                setting,
                search_plan,
                archive,
                proposers,
                allocator=allocator,
                progress=lambda seconds: proposing_words(proposers, setting.answers),
            )
            stages.search(setting, loop, search_plan)
            arms = stages.arms_for_finals(setting, archive, floors)
            costs = full_cost([*finished, *loop.finished])
            final_plan, arms, trained = stages.finals(setting, arms, search_plan, costs=costs)
        except StopRequestedError:
            interrupted = True
            setting.driver.drop()
            if loop is not None:
                loop.settle()
            setting.console.say("stopping: what was found so far is kept; `chiasma resume` goes on from here")
        return Evidence(
            interrupted=interrupted,
            archive=archive,
            loop=loop,
            search_plan=search_plan,
            final_plan=final_plan,
            trained=tuple(trained or stages.best_so_far(setting, search_plan, archive, floors)),
            untrained=tuple(arm.name for arm in arms if arm.name not in {each.arm.name for each in trained}),
            classical=classical.fitted(within_seconds=_patience(setting, search_plan, interrupted)),
            unfitted=tuple(classical.missing()),
            proposing=proposing({} if loop is None else loop.proposers, setting.answers),
        )
