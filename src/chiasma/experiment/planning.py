"""The plan of a run: what a warm-up measured and what follows, recorded as decisions so that a resume repeats them."""

from collections.abc import Sequence
from functools import partial

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import replace_at
from chiasma.evaluate.job import on_task
from chiasma.experiment.driver import Finished, Work
from chiasma.experiment.finals import ArmDesign, expected_costs, full_cost
from chiasma.experiment.plan import (
    DESIGNS,
    MOST_EPOCHS,
    Aim,
    SearchPlan,
    affordable_visits,
    epochs_for,
    extended,
    longer_search,
    plan_search,
)
from chiasma.experiment.setting import Setting
from chiasma.search.design_space import VISITS
from chiasma.train.design import Design, LoopSpec, TrainingSpec

WARMUP_VISITS = 4000
WARMUP_SHARE = 0.1
TRAIN_OVER_PREDICT = 2.5
COMPARED_ARMS = 7
GRACE_SECONDS = 3.0
UNTRAINED_COST = 0.5


def plan(setting: Setting, aim: Aim = DESIGNS) -> SearchPlan:
    """Divide a time budget by a measured warm-up; a budget of trials needs no plan.

    Args:
        aim: What kind of search it is for.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    budget = setting.config.run.budget
    if budget.seconds is None:
        return SearchPlan(rungs=setting.config.evaluate.rungs)
    seconds = budget.seconds
    first = _first_plan(setting)
    if first is not None and not setting.driver.decided(f"plan for {budget.words}"):
        return _with_more_time(setting, first, seconds)
    rows = len(setting.dataset.rows("train"))
    cost = _visit_seconds(setting, rows, seconds)
    driver, epochs = setting.driver, _named_epochs(setting)
    choose = partial(
        plan_search,
        budget=seconds,
        elapsed=driver.clock.elapsed(),
        visit_seconds=cost,
        most_visits=MOST_EPOCHS * rows,
        named_visits=None if epochs is None else int(epochs * rows),
        fewest_visits=setting.config.evaluate.fewest_examples,
        aim=aim,
        rungs=setting.config.evaluate.rungs,
        eta=setting.config.evaluate.eta,
        workers=setting.config.run.workers,
        test_seconds=_test_seconds(setting, cost),
    )
    chosen = SearchPlan.from_dict(driver.decide(f"plan for {budget.words}", lambda: choose().to_dict(), repeated=True))
    setting.console.say(
        f"plan: a full training is {chosen.visits:,} examples, about {chosen.visits * cost:.0f} s on one worker; "
        f"search on {chosen.top:.0%} of it until {chosen.search_until:.0f} s, finals until {chosen.finish_by:.0f} s"
    )
    return chosen


def lengthen(
    setting: Setting, search_plan: SearchPlan, arms: Sequence[ArmDesign], finished: Sequence[Finished]
) -> SearchPlan:
    """Return the plan with the end of the search that the first trainings allow: the finals need what they need."""
    if search_plan.search_until is None:
        return search_plan
    costs = expected_costs(arms, full_cost(finished), unknown=untrained_cost(search_plan))
    # The settings' design stands for the winner, and once more for the control's best.
    expected = [*costs, *(cost for arm, cost in zip(arms, costs, strict=True) if arm.role == "finalist")]
    elapsed, workers = setting.driver.clock.elapsed(), setting.config.run.workers
    chosen = setting.driver.decide(
        f"length of the search of {setting.config.run.budget.words}",
        lambda: longer_search(search_plan, elapsed=elapsed, costs=expected, workers=workers).to_dict(),
        repeated=True,
    )
    return SearchPlan.from_dict(chosen)


def usual_training(setting: Setting, visits: int) -> TrainingSpec:
    """Return the settings' training, as long as the plan says unless the settings name a length."""
    training = setting.config.design(setting.dataset.signature).training
    if _named_epochs(setting) is not None:
        return training
    return replace_at(training, "loop.epochs", epochs_for(visits, len(setting.dataset.rows("train"))))


def _named_epochs(setting: Setting) -> float | None:
    """Return how long the settings say a full training is; None leaves it to the plan."""
    epochs = setting.config.train.epochs
    return epochs if epochs != LoopSpec().epochs else None


def _test_seconds(setting: Setting, visit_seconds: float) -> float:
    """Return the expected cost of the predictions on the test split and of the report."""
    return 3.0 + visit_seconds / TRAIN_OVER_PREDICT * setting.dataset.test_count * COMPARED_ARMS


def _first_plan(setting: Setting) -> SearchPlan | None:
    """Return the plan that the run began with, under whatever budget."""
    plans = [e.data["value"] for e in setting.store.events("decision") if e.data["name"].startswith("plan for ")]
    return SearchPlan.from_dict(plans[0]) if plans else None


def _with_more_time(setting: Setting, first: SearchPlan, seconds: float) -> SearchPlan:
    """Return the first plan under another budget: lengths of training stay, so that what was found still counts."""
    driver = setting.driver
    chosen = driver.decide(
        f"plan for {setting.config.run.budget.words}",
        lambda: extended(
            first,
            budget=seconds,
            elapsed=driver.clock.elapsed(),
            test_seconds=_test_seconds(setting, first.visit_seconds or 0.0),
        ).to_dict(),
    )
    return SearchPlan.from_dict(chosen)


def _visit_seconds(setting: Setting, rows: int, budget: float) -> float:
    """Return what training the settings' design on one example once costs a worker.

    Evaluations and further tasks are included, in the proportion of a full training.
    """
    model = setting.config.design(setting.dataset.signature).model
    design = Design(model=model, training=usual_training(setting, VISITS))
    job = setting.make_job(
        key="warmup",
        design=design,
        seed=derive_seed(setting.config.run.seed, "warmup"),
        fraction=min(1.0, WARMUP_VISITS / (rows * design.training.loop.epochs)),
        rung=0,
    )
    until = setting.driver.clock.elapsed() + WARMUP_SHARE * budget
    setting.driver.submit(Work(job, None, "warmup", until=until))
    for finished in setting.driver.finish_all(until + GRACE_SECONDS):
        if isinstance(finished.outcome, Scored):
            metrics, loop = finished.outcome.metrics, design.training.loop
            evaluation = len(setting.dataset.rows("steer")) / TRAIN_OVER_PREDICT
            trained = metrics["steps"] * loop.batch_size
            evaluated = design.training.evaluations_in(job.fraction) * evaluation
            elsewhere = sum(metrics[on_task("train_seconds", each.name)] for each in setting.companions)
            alone = (metrics["train_seconds"] - elsewhere) / (trained + evaluated)
            epochs = _named_epochs(setting)
            full = affordable_visits(budget, alone, setting.config.run.workers) if epochs is None else epochs * rows
            full = max(full, WARMUP_VISITS)
            return (
                alone * (1 + design.training.evaluations_in(1.0) * evaluation / full) + elsewhere / job.fraction / full
            )
    return WARMUP_SHARE * budget / WARMUP_VISITS


def untrained_cost(search_plan: SearchPlan) -> float:
    return UNTRAINED_COST * search_plan.visits * (search_plan.visit_seconds or 0.0)
