"""The stages of a search: floors, search, finals; each replays what the run's database already knows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.evaluate.ladder import Ranking, by_error
from chiasma.experiment.driver import Finished, Work
from chiasma.experiment.finals import (
    ArmDesign,
    TrainedArm,
    Training,
    expected_costs,
    final_arms,
    train_finals,
)
from chiasma.experiment.fusing import fusion_proposer
from chiasma.experiment.plan import (
    FinalPlan,
    SearchPlan,
    plan_finals,
)
from chiasma.experiment.planning import GRACE_SECONDS, untrained_cost, usual_training
from chiasma.experiment.search_loop import SearchLoop, training_key
from chiasma.experiment.setting import CONTROL, Setting
from chiasma.search.allocator import BanditAllocator
from chiasma.search.archive import SharedArchive
from chiasma.search.design_space import DesignSpace
from chiasma.search.floors import floor_designs
from chiasma.search.growth_space import GrowthSpace
from chiasma.search.local_search import LocalSearch
from chiasma.search.nsga2 import NSGA2, Rules
from chiasma.search.protocols import Allocator, Candidate, Evaluation, Proposer
from chiasma.search.random_search import RandomSearch
from chiasma.train.design import Design


def make_space(setting: Setting, search_plan: SearchPlan) -> DesignSpace:
    """Return the space of designs, built around the settings' own way of training."""
    rows = len(setting.dataset.rows("train"))
    training = usual_training(setting, search_plan.visits)
    return DesignSpace(setting.dataset.signature, train_rows=rows, training=training)


def first_arms(setting: Setting, space: DesignSpace) -> list[ArmDesign]:
    """Record the run's first candidates: the floors that are designs, and the design that the settings describe."""
    signature = setting.dataset.signature
    floors = floor_designs(signature, space)
    arms = [record_arm(setting, floor.name, "floor", floor.description, floor.design) for floor in floors]
    design = Design(model=setting.config.design(signature).model, training=space.training)
    if design.content_hash() not in {arm.design.content_hash() for arm in arms}:
        arms.append(record_arm(setting, "settings", "finalist", "the design of the settings", design))
    return arms


def record_arm(
    setting: Setting, name: str, role: Literal["floor", "finalist"], description: str, design: Design
) -> ArmDesign:
    """Record a design that is trained before anything is proposed."""
    proposer = "floor" if role == "floor" else "settings"
    number = setting.store.add_candidate(
        design.content_hash(),
        proposer=proposer,
        generation=-1,
        genome=design.to_dict(),
        design=design.to_dict(),
        edit=description,
    )
    return ArmDesign(name, role, description, number, design, proposer)


def train_first(
    setting: Setting, arms: Sequence[ArmDesign], search_plan: SearchPlan, archive: SharedArchive
) -> list[Finished]:
    """Train the first candidates on the search's last rung; they are in the archive before anything is proposed.

    Floors that read only a part of the modalities are for comparison alone: they wait for the finals.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    seed, rung = setting.config.run.seed, setting.ladder.top
    most = max(len(arm.design.model.encoders) for arm in arms)
    for arm in arms:
        if len(arm.design.model.encoders) < most:
            continue
        job = setting.make_job(
            key=training_key("search", arm.candidate, rung, search_plan.top),
            design=arm.design,
            seed=derive_seed(seed, "rung", rung),
            fraction=search_plan.top,
            rung=rung,
        )
        setting.driver.submit(Work(job, arm.candidate, "floor"))
    finished: list[Finished] = []
    try:
        setting.driver.finish_all(search_plan.search_until, into=finished)
    finally:
        # Also when the user stops: what is trained by then is the best so far.
        _archive_first(setting, arms, finished, archive)
    return finished


def _archive_first(
    setting: Setting, arms: Sequence[ArmDesign], finished: Sequence[Finished], archive: SharedArchive
) -> None:
    by_number = {arm.candidate: arm for arm in arms}
    for item in sorted(finished, key=lambda item: item.work.candidate or 0):
        arm = by_number[item.work.candidate or 0]
        candidate = Candidate(arm.proposer, arm.design, arm.design, edit=arm.description)
        job = item.work.job
        archive.add(Evaluation(candidate, item.outcome, job.rung, job.seed, item.seconds))
        shown = f"{item.outcome.objectives['error']:.4f}" if isinstance(item.outcome, Scored) else item.outcome.kind
        setting.console.say(f"{arm.role if arm.role == 'floor' else 'start'} {arm.name}: error on select {shown}")


def design_proposers(setting: Setting, space: DesignSpace) -> dict[str, Proposer[Any]]:
    """Return the proposers of whole designs that the settings name."""
    config, rules = setting.config, replace(breeding_rules(setting), limits=None)
    makers: dict[str, Callable[[], Proposer[Any]]] = {
        "random": lambda: RandomSearch(space, seed=config.run.seed),
        "local": lambda: LocalSearch(space, seed=config.run.seed),
        "attention": lambda: NSGA2(seed=config.run.seed, rules=rules),
        "fusion": lambda: fusion_proposer(setting),
        "growth": lambda: LocalSearch(GrowthSpace(space), seed=config.run.seed, name="growth", crossover=0.1),
    }
    return {name: makers[name]() for name in config.search.proposers}


def make_search(
    setting: Setting,
    search_plan: SearchPlan,
    archive: SharedArchive,
    proposers: Mapping[str, Proposer[Any]],
    *,
    allocator: Allocator,
    ranking: Ranking = by_error,
    again: Callable[[], Sequence[Candidate[Any]]] = tuple,
    progress: Callable[[float], str] = lambda seconds: "",
) -> SearchLoop:
    """Return the search loop of this run, with all its proposers on one archive."""
    config, top = setting.config, setting.ladder.top

    def inherit(candidate: Candidate[Any]) -> Path | None:
        """Return the full training of the nearest parent that had one; what is told of a parent never changes."""
        for hash in candidate.parents:
            known = archive.by_hash(hash)
            row = setting.store.by_hash(hash)
            if row is not None and any(each.rung == top and isinstance(each.outcome, Scored) for each in known):
                return setting.kept(training_key("search", row.number, top, search_plan.top))
        return None

    return SearchLoop(
        setting.driver,
        archive,
        proposers=proposers,
        allocator=allocator,
        ladder=setting.ladder,
        top=search_plan.top,
        generation=min(config.search.generation, search_plan.generation or config.search.generation),
        trials=config.run.budget.trials,
        seed=config.run.seed,
        make_job=setting.make_job,
        limit_seconds=search_plan.limit_seconds,
        until=search_plan.search_until,
        ranking=ranking,
        again=again,
        inherit=inherit if config.search.warm_start else lambda candidate: None,
        progress=progress,
    )


def paying_proposers(setting: Setting, proposers: Mapping[str, Proposer[Any]]) -> Allocator:
    """Return who gives candidates to whichever proposer pays, and to the control never less than its share."""
    controls = [name for name in proposers if name == CONTROL]
    return BanditAllocator(list(proposers), controls, floor_share=setting.config.search.floor_share)


def breeding_rules(setting: Setting) -> Rules:
    """Return how mechanisms are bred, as the settings say."""
    search = setting.config.search
    return Rules(
        population=search.population,
        crossover=search.crossover,
        objectives=setting.objectives,
        limits={str(name): limit for name, limit in search.limits.items()},
        known=search.known_mechanisms,
    )


def search(setting: Setting, loop: SearchLoop, search_plan: SearchPlan) -> None:
    """Search until the budget's part for it is spent, then close; a closed search stays closed on resume.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    driver = setting.driver
    name = f"close the search of {setting.config.run.budget.words}"
    until = search_plan.search_until

    def close() -> bool:
        if until is None or driver.clock.elapsed() < until:
            return False
        return not driver.running or driver.clock.elapsed() >= until + GRACE_SECONDS

    loop.run(close)
    if until is not None:
        cut = driver.drop()
        driver.decide(name, lambda: {"cut": cut})
    loop.settle()


def arms_for_finals(setting: Setting, archive: SharedArchive, floors: Sequence[ArmDesign]) -> list[ArmDesign]:
    """Return the finalists, the control's best and the floors."""
    numbers = {row.hash: row.number for row in setting.store.candidates()}
    return final_arms(archive, floors, numbers=numbers, control=CONTROL, finalists=setting.config.evaluate.finalists)


def finals(
    setting: Setting, arms: Sequence[ArmDesign], search_plan: SearchPlan, *, costs: Mapping[int, float]
) -> tuple[FinalPlan, list[ArmDesign], list[TrainedArm]]:
    """Train finalists, control and floors on fresh seeds, as long and as often as the budget allows.

    Where the time does not suffice for full trainings, there are fewer finalists.

    Returns:
        The plan, who was to be trained, and who was.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    driver, config = setting.driver, setting.config
    seeds = config.evaluate.seeds
    if search_plan.finish_by is None:
        chosen = FinalPlan(fraction=1.0, rounds=seeds, finalists=config.evaluate.finalists)
    else:
        left = search_plan.finish_by - driver.clock.elapsed()
        unknown = untrained_cost(search_plan)

        def choose() -> FinalPlan:
            for finalists in range(config.evaluate.finalists, 0, -1):
                some = _with_finalists(arms, finalists)
                expected = expected_costs(some, costs, unknown=unknown)
                found = plan_finals(seconds=left, costs=expected, workers=config.run.workers, seeds=seeds)
                if found.fraction >= 1 or finalists == 1:
                    break
            return found.model_copy(update={"finalists": finalists})

        name = f"finals of {config.run.budget.words}"
        chosen = FinalPlan.from_dict(driver.decide(name, lambda: choose().to_dict()))
        arms = _with_finalists(arms, chosen.finalists)
    setting.console.say(
        f"finals: {len(arms)} designs on {chosen.rounds} fresh seed(s), {chosen.fraction:.0%} of their full training"
    )
    trained = train_finals(
        driver,
        arms,
        chosen,
        costs=costs,
        make_job=setting.make_job,
        seed=config.run.seed,
        rung=setting.ladder.top + 1,
        folder=setting.store.path / "trained" / "finals",
        finish_by=search_plan.finish_by,
    )
    return chosen, list(arms), trained


def _with_finalists(arms: Sequence[ArmDesign], count: int) -> list[ArmDesign]:
    """Return the arms with the first so many finalists; a finalist of the control stays, for the comparison."""
    finalists = [arm for arm in arms if arm.role == "finalist"]
    kept = {arm.candidate for arm in finalists[:count]}
    if not any(arm.role == "control" for arm in arms):
        kept |= {arm.candidate for arm in [arm for arm in finalists if arm.proposer == CONTROL][:1]}
    return [arm for arm in arms if arm.role != "finalist" or arm.candidate in kept]


def best_so_far(
    setting: Setting, search_plan: SearchPlan, archive: SharedArchive, floors: Sequence[ArmDesign]
) -> list[TrainedArm]:
    """Return what the search itself trained and kept, where the finals did not happen: finalists and floors."""
    return trained_so_far(setting, search_plan, arms_for_finals(setting, archive, floors))


def trained_so_far(setting: Setting, search_plan: SearchPlan, arms: Sequence[ArmDesign]) -> list[TrainedArm]:
    """Return those of the arms that the search itself trained on its last rung and kept."""
    found: list[TrainedArm] = []
    for arm in arms:
        key = training_key("search", arm.candidate, setting.ladder.top, search_plan.top)
        row = setting.store.job(key)
        if row is not None and isinstance(row.outcome, Scored) and setting.kept(key).exists():
            training = Training(setting.kept(key), -1, row.outcome, row.seconds or 0.0)
            found.append(TrainedArm(arm, (training,)))
    return found
