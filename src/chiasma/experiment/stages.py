"""The stages of ``evolve``: plan, floors, search, finals; each replays what the run's database already knows."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import replace_at
from chiasma.experiment.driver import Finished, Work
from chiasma.experiment.finals import ArmDesign, TrainedArm, Training, final_arms, train_finals
from chiasma.experiment.plan import FinalPlan, SearchPlan, ladder_cost, plan_finals, plan_search
from chiasma.experiment.search_loop import SearchLoop
from chiasma.experiment.setting import CONTROL, Setting
from chiasma.search.allocator import BanditAllocator
from chiasma.search.archive import SharedArchive
from chiasma.search.design_space import DesignSpace, usual_epochs
from chiasma.search.floors import floor_designs
from chiasma.search.local_search import LocalSearch
from chiasma.search.protocols import Candidate, Evaluation, Proposer
from chiasma.search.random_search import RandomSearch
from chiasma.train.design import Design, LoopSpec

WARMUP_FRACTION = 0.02
SLOWEST = 6.0
COMPARED_ARMS = 7


def first_arms(setting: Setting) -> list[ArmDesign]:
    """Record the run's first candidates: the floors that are designs, and the design that the settings describe."""
    dataset = setting.dataset
    rows = len(dataset.rows("train"))
    floors = floor_designs(dataset.signature, train_rows=rows)
    arms = [_record(setting, floor.name, "floor", floor.description, floor.design) for floor in floors]
    design = setting.config.design(dataset.signature)
    if setting.config.train.epochs == LoopSpec().epochs:
        design = replace_at(design, "training.loop.epochs", usual_epochs(rows))
    if design.content_hash() not in {arm.design.content_hash() for arm in arms}:
        arms.append(_record(setting, "settings", "finalist", "the design of the settings", design))
    return arms


def _record(
    setting: Setting, name: str, role: Literal["floor", "finalist"], description: str, design: Design
) -> ArmDesign:
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


def plan(setting: Setting, arms: Sequence[ArmDesign]) -> SearchPlan:
    """Divide a time budget by a measured warm-up; a budget of trials needs no plan.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    budget = setting.config.run.budget
    if budget.seconds is None:
        return SearchPlan()
    seconds = budget.seconds
    full_seconds = _warm_up(setting, arms[-1])
    driver, ladder = setting.driver, setting.ladder
    rows = len(setting.dataset.rows("train")) * arms[-1].design.training.loop.epochs
    per_example = full_seconds / max(rows, 1.0) / 2.5
    choose = partial(
        plan_search,
        budget=seconds,
        elapsed=driver.clock.elapsed(),
        full_seconds=full_seconds,
        ladder_cost=ladder_cost([rung.fraction for rung in ladder.rungs], ladder.eta),
        workers=setting.config.run.workers,
        test_seconds=3.0 + per_example * setting.dataset.test_count * COMPARED_ARMS,
    )
    chosen = SearchPlan.from_dict(driver.decide(f"plan for {budget.words}", lambda: choose().to_dict()))
    setting.console.say(
        f"a full training takes about {full_seconds:.0f} s on one worker; searching on {chosen.top:.0%} of it "
        f"until {chosen.search_until:.0f} s, final trainings until {chosen.finish_by:.0f} s"
    )
    return chosen


def _warm_up(setting: Setting, arm: ArmDesign) -> float:
    job = setting.make_job(
        key=f"warmup/{arm.candidate}",
        design=arm.design,
        seed=derive_seed(setting.config.run.seed, "warmup"),
        fraction=WARMUP_FRACTION,
        rung=0,
    )
    setting.driver.submit(Work(job, arm.candidate, "warmup"))
    (finished,) = setting.driver.finish_all()
    if not isinstance(finished.outcome, Scored):
        return 60.0
    return finished.outcome.metrics["train_seconds"] / WARMUP_FRACTION


def train_first(
    setting: Setting, arms: Sequence[ArmDesign], search_plan: SearchPlan, archive: SharedArchive
) -> list[Finished]:
    """Train the first candidates on the search's last rung; they are in the archive before anything is proposed.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    seed, rung = setting.config.run.seed, setting.ladder.top
    for arm in arms:
        job = setting.make_job(
            key=f"search/{arm.candidate}/{rung}",
            design=arm.design,
            seed=derive_seed(seed, "rung", rung),
            fraction=search_plan.top,
            rung=rung,
        )
        setting.driver.submit(Work(job, arm.candidate, "floor"))
    finished = setting.driver.finish_all(search_plan.search_until)
    by_number = {arm.candidate: arm for arm in arms}
    for item in sorted(finished, key=lambda item: item.work.candidate or 0):
        arm = by_number[item.work.candidate or 0]
        candidate = Candidate(arm.proposer, arm.design, arm.design, edit=arm.description)
        job = item.work.job
        archive.add(Evaluation(candidate, item.outcome, job.rung, job.seed, item.seconds))
        shown = f"{item.outcome.objectives['error']:.4f}" if isinstance(item.outcome, Scored) else item.outcome.kind
        setting.console.say(f"{arm.role if arm.role == 'floor' else 'start'} {arm.name}: error on select {shown}")
    return finished


def make_search(setting: Setting, search_plan: SearchPlan, archive: SharedArchive) -> SearchLoop:
    """Return the search loop of this run, with all its proposers on one archive."""
    config = setting.config
    dataset = setting.dataset
    space = DesignSpace(dataset.signature, train_rows=len(dataset.rows("train")))
    makers = {"random": RandomSearch, "local": LocalSearch}
    proposers: dict[str, Proposer[Design]] = {
        name: makers[name](space, seed=config.run.seed) for name in config.search.proposers
    }
    controls = [name for name in proposers if name == CONTROL]
    return SearchLoop(
        setting.driver,
        archive,
        proposers=proposers,
        allocator=BanditAllocator(list(proposers), controls, floor_share=config.search.floor_share),
        ladder=setting.ladder,
        top=search_plan.top,
        generation=config.search.generation,
        trials=config.run.budget.trials,
        seed=config.run.seed,
        make_job=setting.make_job,
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
        return until is not None and (driver.decided(name) or driver.clock.elapsed() >= until)

    loop.run(close)
    if until is not None and driver.pending:
        cut = driver.drop()
        driver.decide(name, lambda: {"cut": cut})
    loop.settle()


def arms_for_finals(setting: Setting, archive: SharedArchive, floors: Sequence[ArmDesign]) -> list[ArmDesign]:
    """Return the finalists, the control's best and the floors."""
    numbers = {row.hash: row.number for row in setting.store.candidates()}
    return final_arms(archive, floors, numbers=numbers, control=CONTROL, finalists=setting.config.evaluate.finalists)


def finals(
    setting: Setting, arms: Sequence[ArmDesign], search_plan: SearchPlan, *, costs: Mapping[int, float]
) -> tuple[FinalPlan, list[TrainedArm]]:
    """Train finalists, control and floors on fresh seeds, as long and as often as the budget allows.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    driver, config = setting.driver, setting.config
    seeds = config.evaluate.seeds
    if search_plan.finish_by is None:
        chosen = FinalPlan(fraction=1.0, rounds=seeds)
    else:
        known = [costs[arm.candidate] for arm in arms if arm.candidate in costs]
        left = search_plan.finish_by - driver.clock.elapsed()
        choose = partial(plan_finals, seconds=left, costs=known or [1.0], workers=config.run.workers, seeds=seeds)
        name = f"finals of {config.run.budget.words}"
        chosen = FinalPlan.from_dict(driver.decide(name, lambda: choose().to_dict()))
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
    return chosen, trained


def best_so_far(setting: Setting, archive: SharedArchive, floors: Sequence[ArmDesign]) -> list[TrainedArm]:
    """Return what the search itself trained and kept, where the finals did not happen: finalists and floors."""
    found: list[TrainedArm] = []
    for arm in arms_for_finals(setting, archive, floors):
        key = f"search/{arm.candidate}/{setting.ladder.top}"
        row = setting.store.job(key)
        if row is not None and isinstance(row.outcome, Scored) and setting.kept(key).exists():
            training = Training(setting.kept(key), -1, row.outcome, row.seconds or 0.0)
            found.append(TrainedArm(arm, (training,)))
    return found
