"""Judge the best parts that a search found again, on seeds that did not select them, until their order is certain."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.outcome import Rejected, Scored
from chiasma.core.rng import derive_seed
from chiasma.experiment.driver import Finished, Work
from chiasma.experiment.finals import ArmDesign, TrainedArm, Training, full_cost
from chiasma.experiment.front import uncertain
from chiasma.experiment.judging import Judging
from chiasma.experiment.plan import SAFETY, SearchPlan, full_round
from chiasma.experiment.search_loop import SearchLoop, training_key
from chiasma.experiment.searched_part import SearchedPart
from chiasma.experiment.setting import Setting
from chiasma.experiment.stages import breeding_rules
from chiasma.search.archive import SharedArchive
from chiasma.search.nsga2 import Rules, excess, survivors
from chiasma.search.pareto import non_dominated
from chiasma.search.protocols import Candidate, Standing
from chiasma.train.design import Design


@dataclass
class Search:
    """What the stages share.

    Attributes:
        part: What is searched.
        base: The design around it, with the standard part.
        archive: The standard part, and every other that was trained.
        judged: Trainings on fresh seeds, by arm.
        diverged: How many of them were rejected, by arm.
        history: One row a generation.
        reference: The point from which the hypervolume is measured; empty until the baselines are trained.
    """

    setting: Setting
    part: SearchedPart
    base: Design
    archive: SharedArchive
    arms: dict[str, ArmDesign] = field(default_factory=dict[str, ArmDesign])
    first: list[Finished] = field(default_factory=list[Finished])
    judged: dict[str, list[Training]] = field(default_factory=dict[str, list[Training]])
    diverged: Counter[str] = field(default_factory=Counter[str])
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    reference: tuple[float, ...] = ()

    @cached_property
    def rules(self) -> Rules:
        """Return what is minimised together, and within which limits."""
        return breeding_rules(self.setting)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Return what is minimised."""
        return self.setting.objectives


def front_of(search: Search) -> list[Standing]:
    """Return the feasible designs of the last rung that no other dominates, as the search itself measured them."""
    rules = search.rules
    standings = [
        each
        for each in search.archive.standings(*rules.measured)
        if each.rung >= search.setting.ladder.top and not excess(each.objectives, rules.limits)
    ]
    if not standings:
        return []
    table = np.array([[each.objectives[name] for name in search.objectives] for each in standings])
    return [each for each, here in zip(standings, non_dominated(table), strict=True) if here]


def to_confirm(search: Search) -> list[Candidate[Any]]:
    """Return what is on the front by one training alone, lowest error first."""
    return [each.candidate for each in front_of(search) if len(each.evaluations) == 1]


def elites(search: Search) -> list[ArmDesign]:
    """Return who is judged again: the baselines, and the best of the archive, most of them from its front."""
    numbers = {row.hash: row.number for row in search.setting.store.candidates()}
    known = {arm.design.content_hash() for arm in search.arms.values()}
    found = [s.candidate for s in survivors(search.archive, search.rules) if s.candidate.hash not in known]
    chosen = found[: search.setting.config.evaluate.finalists]
    return [*search.arms.values(), *(_arm(candidate, numbers[candidate.hash]) for candidate in chosen)]


def _arm(candidate: Candidate[Any], number: int) -> ArmDesign:
    return ArmDesign(f"#{number}", "finalist", candidate.edit, number, candidate.design, candidate.proposer)


def judge_again(search: Search, loop: SearchLoop, search_plan: SearchPlan) -> None:
    """Train the elites on fresh seeds, round after round, until their order is certain, the seeds or the time spent.

    What ended is in ``search.judged``, also where the user stops.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    setting = search.setting
    arms = elites(search)
    costs = full_cost([*search.first, *loop.finished])
    judgings = make_judgings(setting)
    found = search.judged
    found.update((arm.name, []) for arm in arms)
    asked = list(arms)
    for round_ in range(setting.config.evaluate.seeds):
        if not asked or not _time_for(setting, asked, costs, round_, search_plan):
            break
        names = ", ".join(arm.name for arm in asked)
        setting.console.say(f"judging on fresh seed {round_ + 1} of at most {setting.config.evaluate.seeds}: {names}")
        again = _train_round(search, asked, round_, search_plan)
        trained = judged_arms(search, arms)
        names_left = set[str]().union(*(uncertain(trained, judging) for judging in judgings))
        # The standard goes on: every gain is measured against it. Who failed by our fault is not certain either.
        names_left |= {search.part.standard, *again}
        asked = [arm for arm in arms if arm.name in names_left and (found[arm.name] or arm.name in again)]
        if asked == [search.arms[search.part.standard]]:
            break


def judged_arms(search: Search, arms: Sequence[ArmDesign]) -> list[TrainedArm]:
    """Return the arms that have been trained on a fresh seed, with those trainings."""
    return [TrainedArm(arm, tuple(kept)) for arm in arms if (kept := search.judged.get(arm.name))]


def _time_for(
    setting: Setting, arms: Sequence[ArmDesign], costs: Mapping[int, float], round_: int, search_plan: SearchPlan
) -> bool:
    """Return whether another round ends in time; the first one always begins."""
    if search_plan.finish_by is None:
        return True
    left = search_plan.finish_by - setting.driver.clock.elapsed()
    once = full_round([search_plan.top * costs.get(arm.candidate, 0.0) for arm in arms], setting.config.run.workers)
    name = f"fresh seed {round_} of {setting.config.run.budget.words}"
    return bool(setting.driver.decide(name, lambda: {"go": round_ == 0 or once < SAFETY * left})["go"])


def _train_round(
    search: Search,
    arms: Sequence[ArmDesign],
    round_: int,
    search_plan: SearchPlan,
) -> set[str]:
    """Train each arm once, as long as the search's last rung, with a seed that the search never used.

    Returns the arms whose training failed, which says nothing of them.
    """
    setting = search.setting
    places: dict[str, tuple[str, Path]] = {}
    for arm in arms:
        folder = setting.store.path / "trained" / "judged" / f"{arm.candidate}-{round_}"
        job = setting.make_job(
            key=training_key("judge", arm.candidate, round_, search_plan.top),
            design=arm.design,
            seed=derive_seed(setting.config.run.seed, "judge", round_),
            fraction=search_plan.top,
            rung=setting.ladder.top + 1,
            keep=folder,
        )
        places[job.key] = (arm.name, folder)
        work = Work(job, arm.candidate, "final", until=search_plan.finish_by, whole_or_nothing=True)
        setting.driver.submit(work)
    ended: list[Finished] = []
    failed = set[str]()
    try:
        setting.driver.finish_all(search_plan.finish_by, into=ended)
    finally:
        for item in ended:
            name, folder = places[item.work.job.key]
            if isinstance(item.outcome, Scored):
                search.judged[name].append(Training(folder, round_, item.outcome, item.seconds))
            elif isinstance(item.outcome, Rejected):
                search.diverged[name] += 1
            else:
                failed.add(name)
                setting.console.say(f"{name} on fresh seed {round_ + 1}: {item.outcome.error}")
    return failed


def make_judgings(setting: Setting) -> tuple[Judging, ...]:
    """Return what measures trained arms on the select split of this run's task and of each further one."""
    evaluate = setting.config.evaluate
    judge = partial(Judging, level=evaluate.level, resamples=evaluate.resamples)
    others = (judge(each.dataset, metric=each.task.metric, task=each.name) for each in setting.companions)
    return (judge(setting.dataset, metric=setting.metric), *others)
