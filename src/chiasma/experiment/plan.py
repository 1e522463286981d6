"""How a budget is spent: pure functions of what was measured, recorded as decisions so that a resume repeats them."""

from collections.abc import Sequence

from pydantic import Field

from chiasma.core.spec import Spec
from chiasma.search.design_space import VISITS

SEARCH_SHARE = 0.48
FULL_TRAINING_SHARE = 0.1
MOST_EPOCHS = 40
SPARE_SECONDS = 3.0
FIRST_DEEP_ARMS = 2.5
GENERATIONS_WANTED = 6
SMALLEST_GENERATION = 3
SAFETY = 0.88
REPORT_SHARE = 0.02
FINALS_SHARE = 0.3


class Aim(Spec):
    """What a search is for decides how short its trainings may be.

    Attributes:
        candidates: How many should be tried; where they do not fit, trainings get shorter.
        least_top: The least part of a full training that the search's highest rung may be.
        slowest: A candidate that would take so many times as long as planned is rejected.
    """

    candidates: int = Field(ge=1)
    least_top: float = Field(gt=0, le=1)
    slowest: float = Field(gt=1)


DESIGNS = Aim(candidates=24, least_top=0.5, slowest=3.0)
"""Whole designs: the best is trained in full at the end, so that it must be known how they end."""
MECHANISMS = Aim(candidates=48, least_top=0.1, slowest=6.0)
"""One part of a design: all are judged at the search's own length, and ``benchmark`` trains in full.

What the standard one is measured with is fused, so that others may well be a few times slower."""


class SearchPlan(Spec):
    """The search's part of a budget.

    Attributes:
        visits: Examples that a full training of usual length sees, all epochs together.
        rungs: Lengths of training on the ladder, in parts of ``top``.
        top: Part of a design's own epochs that the highest rung of the search trains.
        slowest: A candidate that would take so many times as long as planned is rejected.
        generation: Most candidates asked for together, so that even a short search learns from its own results; None
            for as many as the settings say.
        visit_seconds: Measured cost of training on one example once; None where trials are counted.
        search_until: Seconds after the start at which the search ends; None where trials are counted.
        finish_by: Seconds after the start at which trainings must have ended; None where trials are counted.
    """

    visits: int = Field(default=VISITS, ge=1)
    rungs: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    top: float = Field(default=1.0, gt=0, le=1)
    slowest: float = Field(default=DESIGNS.slowest, gt=1)
    generation: int | None = Field(default=None, ge=1)
    visit_seconds: float | None = None
    search_until: float | None = None
    finish_by: float | None = None

    def limit_seconds(self, fraction: float) -> float | None:
        """Return how long a candidate may train for a part of its epochs: what is far slower is rejected."""
        if self.visit_seconds is None:
            return None
        return self.slowest * fraction * self.visits * self.visit_seconds + SPARE_SECONDS


class FinalPlan(Spec):
    """The final trainings on fresh seeds.

    Attributes:
        fraction: Part of each design's own epochs, the same for the winner and all that it is compared with.
        rounds: Fresh seeds; in each round every arm is trained once.
        finalists: How many of the best designs are trained.
    """

    fraction: float = Field(gt=0, le=1)
    rounds: int = Field(ge=1)
    finalists: int = Field(default=1, ge=1)


def plan_search(
    *,
    budget: float,
    elapsed: float,
    visit_seconds: float,
    most_visits: int,
    rungs: Sequence[float],
    eta: float,
    workers: int,
    test_seconds: float,
    named_visits: int | None = None,
    fewest_visits: int = 15_000,
    aim: Aim = DESIGNS,
) -> SearchPlan:
    """Divide a time budget between search, final trainings and the report.

    Args:
        budget: Seconds in all.
        elapsed: Seconds already spent.
        visit_seconds: What training an ordinary design on one example once costs a worker, as measured.
        most_visits: More than this no training needs.
        rungs: Lengths of training on the ladder, in parts of the last one; those too short to tell are left out.
        eta: Of a rung's candidates, one in ``eta`` climbs.
        workers: Trainings at a time.
        test_seconds: Expected cost of the predictions on the test split and of the report.
        named_visits: What a full training sees where the settings say so; None leaves it to the budget.
        fewest_visits: No training is shorter, and no rung.
        aim: What kind of search it is for.
    """
    search_until, finish_by = _ends(budget, elapsed, test_seconds)
    search = search_until - elapsed
    cost = max(visit_seconds, 1e-7)
    affordable = min(most_visits, max(fewest_visits, affordable_visits(budget, cost, workers)))
    visits = max(1, int(affordable) if named_visits is None else named_visits)
    full_trainings = aim.candidates * ladder_cost(rungs, eta) + FIRST_DEEP_ARMS
    least = max(aim.least_top, min(1.0, fewest_visits / visits))
    top = min(1.0, max(least, search * workers / (full_trainings * visits * cost)))
    kept = tuple(rung for rung in rungs if rung == rungs[-1] or rung * top * visits >= fewest_visits)
    candidates = search * workers / (ladder_cost(kept, eta) * top * visits * cost)
    return SearchPlan(
        visits=visits,
        rungs=kept,
        top=top,
        slowest=aim.slowest,
        generation=max(SMALLEST_GENERATION, round(candidates / GENERATIONS_WANTED)),
        visit_seconds=cost,
        search_until=search_until,
        finish_by=finish_by,
    )


def affordable_visits(budget: float, visit_seconds: float, workers: int) -> float:
    """Return how many examples a full training of usual length may see under a budget of so many seconds."""
    return FULL_TRAINING_SHARE * budget * workers / visit_seconds


def epochs_for(visits: int, rows: int) -> float:
    """Return how many passes over ``rows`` examples make about so many visits: at least one, at most forty."""
    return float(min(MOST_EPOCHS, max(1, round(visits / max(1, rows)))))


def ladder_cost(fractions: Sequence[float], eta: float) -> float:
    """Return the mean cost of a candidate under successive halving, in parts of the last rung's training."""
    return sum(fraction / eta**rung for rung, fraction in enumerate(fractions)) / fractions[-1]


def extended(first: SearchPlan, *, budget: float, elapsed: float, test_seconds: float) -> SearchPlan:
    """Return a run's first plan under another budget, with the same lengths of training and new ends.

    Args:
        first: What the run began with.
        budget: Seconds in all, of the new budget.
        elapsed: Seconds already spent.
        test_seconds: Expected cost of the predictions on the test split and of the report.
    """
    search_until, finish_by = _ends(budget, elapsed, test_seconds)
    return first.model_copy(update={"search_until": search_until, "finish_by": finish_by})


def _ends(budget: float, elapsed: float, test_seconds: float) -> tuple[float, float]:
    """Return when the search ends, and when all trainings must have ended."""
    finish_by = max(elapsed, budget - test_seconds - REPORT_SHARE * budget)
    return elapsed + SEARCH_SHARE * (finish_by - elapsed), finish_by


def longer_search(plan: SearchPlan, *, elapsed: float, costs: Sequence[float], workers: int) -> SearchPlan:
    """Return the plan with a search that also uses what one round of finals will not need; never a shorter one.

    Args:
        plan: Made before anything but the warm-up was measured.
        elapsed: Seconds already spent.
        costs: Expected seconds of each arm's full training on one worker, now that the first designs were trained.
        workers: Trainings at a time.
    """
    if plan.search_until is None or plan.finish_by is None:
        return plan
    reserved = max(full_round(costs, workers) / SAFETY, FINALS_SHARE * (plan.finish_by - elapsed))
    return plan.model_copy(update={"search_until": max(plan.search_until, plan.finish_by - reserved)})


def full_round(costs: Sequence[float], workers: int) -> float:
    """Return the seconds in which workers train every arm once: one cannot be divided among them."""
    return max(max(costs, default=0.0), sum(costs) / workers)


def plan_finals(*, seconds: float, costs: Sequence[float], workers: int, seeds: int) -> FinalPlan:
    """Choose how long and how often the final arms are trained: first as long as they need, then on more seeds.

    Args:
        seconds: What is left until the trainings must have ended.
        costs: Expected seconds of each arm's full training on one worker.
        workers: Trainings at a time.
        seeds: Most rounds.
    """
    once = full_round(costs, workers)
    usable = SAFETY * max(seconds, 0.0)
    fraction = min(1.0, max(0.01, usable / max(once, 1e-6)))
    rounds = int(usable // max(fraction * once, 1e-6))
    return FinalPlan(fraction=fraction, rounds=max(1, min(seeds, rounds)))
