"""Search for one part of a design: propose it, judge the best again on fresh seeds, write the front.

The test split stays sealed: candidates are compared on ``select``. What a discovery is worth on unseen data is for
``benchmark`` to say.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.core.outcome import Rejected, Scored
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import DataReport
from chiasma.data.signature import Signature
from chiasma.experiment import planning, stages
from chiasma.experiment.backbones import with_backbones
from chiasma.experiment.beginning import (
    StoppedTooSoonError,
    begin_run,
    check_can_run,
    deciding_metric,
    failing,
    prepare_data,
    reopen_data,
    with_budget,
)
from chiasma.experiment.companions import (
    Companion,
    companion_facts,
    prepare_companions,
    recorded_companions,
)
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.driver import Clock, Finished, StopRequestedError, spent_seconds
from chiasma.experiment.executors import check_executor, with_executor
from chiasma.experiment.front import volume_of
from chiasma.experiment.grown import one_token_warning
from chiasma.experiment.judging_again import Search, elites, front_of, judge_again, judged_arms, to_confirm
from chiasma.experiment.part_result import SearchResult, conclude
from chiasma.experiment.plan import MECHANISMS, SearchPlan
from chiasma.experiment.search_loop import SearchLoop
from chiasma.experiment.searched_part import SearchedPart
from chiasma.experiment.setting import CONTROL, Setting, make_setting
from chiasma.experiment.sitting import sitting
from chiasma.experiment.tracking import refuse_tracking
from chiasma.search.allocator import SharesAllocator
from chiasma.search.archive import SharedArchive
from chiasma.search.nsga2 import excess
from chiasma.search.pareto import by_front
from chiasma.store.run import RunStore
from chiasma.train.design import Design

MARGIN = 1.1
SHOWN_REASONS = 3


Place = Callable[[RunConfig, Signature], tuple[RunConfig, SearchedPart]]
"""Returns the settings with a model that has the part, and the part that is searched.

Raises:
    ConfigError: The data or the settings have no such part.
"""


def check_proposers(config: RunConfig, found: str, proposers: Sequence[str]) -> None:
    """Refuse settings that name nobody who could propose what is searched for.

    Args:
        config: Of the run.
        found: What is searched for, in the plural.
        proposers: Who proposes it.

    Raises:
        ConfigError: None of them is named.
    """
    if not set(proposers) & set(config.search.proposers):
        raise ConfigError(
            f"search.proposers: {found} come from {' or '.join(proposers)}, but it names only "
            f"{', '.join(config.search.proposers)}."
        )


def start(
    place: Place,
    config: RunConfig,
    *,
    also: Mapping[str, RunConfig] | None = None,
    console: Console,
    command: Sequence[str] = (),
    started: float | None = None,
) -> SearchResult:
    """Search for one part of a design within a budget.

    Args:
        place: Says which part.
        config: Everything the run is told.
        also: Settings of further tasks by name: every candidate is trained on them too, and its error on each is an
            objective of its own.
        console: Where progress goes, and whether the user wants to stop.
        command: The command line, for the provenance.
        started: From when the budget counts (``time.monotonic()``); None for now.

    Raises:
        ChiasmaError: The data, the part or a setting cannot be used; nothing has been trained.
    """
    clock = Clock() if started is None else Clock(started=started)
    refuse_tracking(config, "search")
    check_executor(config.run)
    config = with_backbones(config, console)
    dataset, report = prepare_data(config, console)
    config, part = place(config, dataset.signature)
    metric = deciding_metric(config, dataset)
    check_can_run(config, dataset)
    further = {name: with_backbones(each, console) for name, each in (also or {}).items()}
    companions = prepare_companions(further, console)
    facts = companion_facts(further, companions)
    with begin_run(config, dataset, verb="search", command=command, facts=facts) as store, failing(store):
        surroundings = _Surroundings(config, dataset, report, companions, part, metric)
        return _drive(surroundings, store=store, console=console, clock=clock)


def resume(
    place: Place,
    path: Path,
    *,
    budget: str | None = None,
    executor: str | None = None,
    ray_address: str | None = None,
    console: Console,
    started: float | None = None,
) -> SearchResult:
    """Continue an interrupted or killed search to the front that it would have had; arguments as in ``evolve``."""
    started = time.monotonic() if started is None else started
    with RunStore.open(path, write=True) as store:
        config = with_executor(with_budget(store, budget), executor, ray_address)
        check_executor(config.run)
        dataset, report = reopen_data(store, config, console)
        _, part = place(config, dataset.signature)
        metric = deciding_metric(config, dataset)
        clock = Clock(spent_before=spent_seconds(store), started=started)
        companions = recorded_companions(store, console)
        surroundings = _Surroundings(config, dataset, report, companions, part, metric)
        with failing(store):
            return _drive(surroundings, store=store, console=console, clock=clock)


@dataclass(frozen=True)
class _Surroundings:
    config: RunConfig
    dataset: Dataset
    report: DataReport
    companions: tuple[Companion, ...]
    part: SearchedPart
    metric: str


def _drive(surroundings: _Surroundings, *, store: RunStore, console: Console, clock: Clock) -> SearchResult:
    config, dataset = surroundings.config, surroundings.dataset
    with sitting(config, store, console=console, clock=clock) as (driver, answers):
        setting = make_setting(
            config, dataset, surroundings.report, metric=surroundings.metric, driver=driver, answers=answers
        )
        setting = replace(setting, companions=surroundings.companions, slot=surroundings.part.path)
        result = _search(setting, surroundings.part, config.design(dataset.signature))
    store.set_status("stopped" if result.stopped == "interrupted" else "finished")
    return result


def _search(setting: Setting, part: SearchedPart, base: Design) -> SearchResult:
    """Run every stage, or as many as there is time for."""
    console, loop, interrupted = setting.console, None, False
    search_plan = SearchPlan()
    search: Search | None = None
    try:
        search_plan = planning.plan(setting, MECHANISMS)
        setting = setting.with_rungs(search_plan.rungs)
        training = planning.usual_training(setting, search_plan.visits)
        around = Design(model=base.model, training=training)
        standard, _ = part.baselines(around)[part.standard]
        for line in one_token_warning(standard.model, setting.dataset.signature, searched=part.path == "model.fusion"):
            console.say(line)
        search = _begin(setting, part, standard)
        _train_baselines(search, search_plan)
        search_plan = planning.lengthen(setting, search_plan, list(search.arms.values()), search.first)
        loop = _make_loop(search, search_plan)
        stages.search(setting, loop, search_plan)
        judge_again(search, loop, search_plan)
    except StopRequestedError:
        interrupted = True
        setting.driver.drop()
        if loop is not None:
            loop.settle()
        console.say("stopping: what was found so far is kept; `chiasma resume` goes on from here")
    if search is None or loop is None:
        raise StoppedTooSoonError(
            f"Stopped before any candidate was trained. Go on: chiasma resume {setting.store.path}"
        )
    arms = elites(search)
    trained = judged_arms(search, arms)
    if not any(arm.arm.role == "finalist" for arm in trained):
        trained = stages.trained_so_far(setting, search_plan, arms)
    return conclude(search, loop, trained, search_plan, interrupted=interrupted)


def _begin(setting: Setting, part: SearchedPart, base: Design) -> Search:
    """Record the baselines, and prepare the archive."""
    search = Search(setting, part, base, SharedArchive(setting.objectives))
    for name, (design, description) in part.baselines(base).items():
        search.arms[name] = stages.record_arm(setting, name, "floor", description, design)
    return search


def _train_baselines(search: Search, search_plan: SearchPlan) -> None:
    """Train the baselines; only the standard one is ground to build on.

    Raises:
        ChiasmaError: They could not be trained in time.
        StopRequestedError: The user asked to stop.
    """
    scratch = SharedArchive(search.objectives)
    arms = list(search.arms.values())
    search.first = stages.train_first(search.setting, arms, search_plan, scratch)
    standard = search.arms[search.part.standard]
    for evaluation in scratch.by_hash(standard.design.content_hash()):
        search.archive.add(evaluation)
    outcomes = [item.outcome for item in search.first if item.work.candidate == standard.candidate]
    if not search.archive.standings():
        if outcomes and isinstance(outcomes[0], Rejected):
            raise ChiasmaError(
                f"The baseline itself, {standard.description}, cannot be trained with these settings: "
                f"{outcomes[0].reason}."
            )
        raise ChiasmaError(
            f"The baseline, {standard.description}, was not trained within {search.setting.config.run.budget.words}, "
            f"not even for {search_plan.top:.0%} of its epochs. Go on with more time: chiasma resume "
            f"{search.setting.store.path} --budget TIME."
        )
    points = [item.outcome.objectives for item in search.first if isinstance(item.outcome, Scored)]
    search.reference = tuple(MARGIN * max(point[name] for point in points) or 1.0 for name in search.objectives)


def _make_loop(search: Search, search_plan: SearchPlan) -> SearchLoop:
    config = search.setting.config
    able = search.part.proposers(search.setting, search.base)
    chosen = {name: proposer for name, proposer in able.items() if name in config.search.proposers}
    loop = stages.make_search(
        search.setting,
        search_plan,
        search.archive,
        chosen,
        allocator=SharesAllocator(_shares(list(chosen), config.search.floor_share)),
        ranking=_ranking(search.objectives, search.rules.limits or {}),
        again=lambda: to_confirm(search) if config.search.confirm else [],
        progress=lambda seconds: _progress(search, loop, search_plan, seconds),
    )
    return loop


def _shares(names: Sequence[str], floor_share: float) -> dict[str, float]:
    """Return the share of each proposer: the control has its own and no more, since the others are what is asked for.

    Who is alone has everything, and a share of nought leaves one out.
    """
    shares = {name: floor_share if name == CONTROL else 1 - floor_share for name in names}
    return {name: share for name, share in shares.items() if share > 0} if len(names) > 1 else {names[0]: 1.0}


def _ranking(
    objectives: Sequence[str], limits: Mapping[str, float]
) -> Callable[[Mapping[int, Mapping[str, float]]], list[int]]:
    """Return what decides who climbs: feasible ones by front and crowding, then the least infeasible."""

    def ranked(scores: Mapping[int, Mapping[str, float]]) -> list[int]:
        over = {name: excess(point, limits) for name, point in scores.items()}
        feasible = by_front({name: point for name, point in scores.items() if over[name] == 0}, objectives)
        return feasible + sorted((name for name in scores if over[name] > 0), key=lambda name: (over[name], name))

    return ranked


def _progress(search: Search, loop: SearchLoop, search_plan: SearchPlan, seconds: float) -> str:
    """Note the front after a generation, and return it in words with what was refused and saved."""
    points = _front_points(search)
    volume = volume_of(points, search.reference)
    row = {"candidates": loop.trained, "seconds": seconds, "hypervolume": volume, "front": len(points)}
    search.history.append({"generation": len(search.history) + 1, **row})
    parts = [f"front {len(points)}, hypervolume {volume:.4f}"]
    if rejections := _rejections(loop.finished):
        parts.append("rejected " + ", ".join(f"{count} ({reason})" for reason, count in rejections.items()))
    if loop.duplicates:
        parts.append(f"{loop.duplicates} duplicates saved")
    if said := search.part.progress():
        parts.append(said)
    if search_plan.search_until is not None:
        left = search_plan.search_until - search.setting.driver.clock.elapsed()
        parts.append(f"{max(0.0, left):.0f} s of search left")
    return "; ".join(parts)


def _front_points(search: Search) -> list[list[float]]:
    """Return the front among what was trained on the last rung."""
    return [[s.objectives[name] for name in search.objectives] for s in front_of(search)]


def _rejections(finished: Sequence[Finished]) -> dict[str, int]:
    outcomes = [item.outcome for item in finished if isinstance(item.outcome, Rejected)]
    return dict(Counter(f"{each.stage}: {_shortened(each.reason)}" for each in outcomes).most_common(SHOWN_REASONS))


def _shortened(reason: str) -> str:
    """Return a reason without its numbers, so that equal faults count together."""
    return re.sub(r"\d[\d.,e+-]*", "…", reason)
