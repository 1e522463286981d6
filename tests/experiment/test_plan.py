"""How a budget is divided."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasma.experiment.plan import (
    DESIGNS,
    MECHANISMS,
    SearchPlan,
    extended,
    ladder_cost,
    longer_search,
    plan_finals,
    plan_search,
)


def search(
    budget: float = 600.0, visit_seconds: float = 1e-4, elapsed: float = 5.0, test_seconds: float = 5.0, **more: Any
) -> SearchPlan:
    return plan_search(
        budget=budget,
        elapsed=elapsed,
        visit_seconds=visit_seconds,
        most_visits=300_000,
        rungs=(0.1, 0.3, 1.0),
        eta=3.0,
        workers=2,
        test_seconds=test_seconds,
        **more,
    )


def test_cheap_designs_are_searched_at_their_full_length_and_trained_no_longer_than_needed():
    plan = search(visit_seconds=1e-5)
    assert (plan.top, plan.visits) == (1.0, 300_000)


def test_expensive_designs_are_trained_for_a_fixed_part_of_the_budget():
    plan = search(visit_seconds=1e-3)
    assert plan.visits == 120_000
    assert plan.top < 0.6


def test_rungs_that_are_too_short_to_tell_anything_are_left_out():
    assert search(visit_seconds=1e-3).rungs == (0.3, 1.0)
    assert search(visit_seconds=1e-5).rungs == (0.1, 0.3, 1.0)


def test_how_short_a_rung_may_be_is_for_the_settings_to_say():
    assert search(visit_seconds=1e-3, fewest_visits=5_000).rungs == (0.1, 0.3, 1.0)


def test_a_length_that_the_settings_name_is_the_plan_s():
    plan = search(visit_seconds=1e-3, named_visits=400_000)
    assert plan.visits == 400_000
    assert plan.limit_seconds(1.0) == pytest.approx(3 * 400 + 3)


def test_mechanisms_are_compared_on_shorter_trainings_than_whole_designs():
    designs, mechanisms = (search(visit_seconds=1e-3, named_visits=400_000, aim=aim) for aim in (DESIGNS, MECHANISMS))
    assert (designs.top, mechanisms.top) == (0.5, 0.1)


def test_no_training_is_shorter_than_what_can_tell_something():
    assert search(visit_seconds=1e-1, named_visits=60_000, aim=MECHANISMS).top == 0.25
    assert search(visit_seconds=1e-1, named_visits=6_000, aim=MECHANISMS).top == 1


def test_a_candidate_that_is_far_slower_than_planned_has_a_limit():
    plan = search(visit_seconds=1e-3)
    assert plan.limit_seconds(0.5) == pytest.approx(3 * 60 + 3)
    assert SearchPlan().limit_seconds(0.5) is None


def test_a_search_leaves_more_than_half_of_the_time_to_the_final_trainings():
    plan = search()
    assert plan.search_until is not None
    assert plan.finish_by is not None
    assert plan.finish_by - plan.search_until > plan.search_until - 5.0


@given(
    budget=st.floats(5, 1e5),
    visit_seconds=st.floats(0, 1),
    elapsed=st.floats(0, 1e5),
    test_seconds=st.floats(0, 1e4),
)
def test_a_plan_never_goes_backwards_nor_past_its_budget(budget, visit_seconds, elapsed, test_seconds):
    plan = search(budget, visit_seconds, elapsed, test_seconds)
    assert elapsed <= plan.search_until <= plan.finish_by <= max(elapsed, budget)
    assert 0.5 <= plan.top <= 1
    assert plan.rungs[-1] == 1


def test_the_cost_of_a_candidate_counts_how_few_reach_the_later_rungs():
    assert ladder_cost([0.1, 0.3, 1.0], 3.0) == pytest.approx(0.1 + 0.1 + 1 / 9)


def test_final_trainings_are_full_and_repeated_where_there_is_time():
    plan = plan_finals(seconds=1000.0, costs=[10.0, 20.0, 10.0], workers=2, seeds=3)
    assert (plan.fraction, plan.rounds) == (1.0, 3)


def test_final_trainings_are_shortened_for_all_arms_before_a_round_is_left_out():
    plan = plan_finals(seconds=50.0, costs=[100.0, 100.0], workers=2, seeds=3)
    assert plan.rounds == 1
    assert plan.fraction == pytest.approx(0.44)


@given(
    seconds=st.floats(0, 1e4),
    costs=st.lists(st.floats(0.01, 1e3), min_size=1, max_size=10),
    workers=st.integers(1, 8),
    seeds=st.integers(1, 5),
)
def test_final_trainings_fit_into_the_time_that_is_left(seconds, costs, workers, seeds):
    plan = plan_finals(seconds=seconds, costs=costs, workers=workers, seeds=seeds)
    assert 1 <= plan.rounds <= seeds
    if plan.fraction > 0.01:
        assert plan.rounds * plan.fraction * sum(costs) / workers <= seconds + 1e-6


def test_a_search_is_lengthened_by_what_one_round_of_finals_does_not_need():
    plan = search()
    longer = longer_search(plan, elapsed=50.0, costs=[20.0, 10.0, 10.0], workers=2)
    assert longer.search_until is not None
    assert longer.search_until > plan.search_until
    # Even cheap finals keep a part of the time, for more seeds.
    assert longer.search_until == pytest.approx(plan.finish_by - 0.3 * (plan.finish_by - 50.0))


def test_a_search_is_never_cut_short_by_expensive_finals():
    plan = search()
    assert longer_search(plan, elapsed=50.0, costs=[1000.0] * 9, workers=2) == plan


def test_a_budget_of_trials_needs_no_end_of_the_search():
    assert longer_search(SearchPlan(), elapsed=50.0, costs=[1.0], workers=2) == SearchPlan()


def test_a_search_that_can_afford_few_candidates_asks_for_few_at_a_time():
    assert search(budget=120.0, visit_seconds=1e-3).generation == 3
    assert search(visit_seconds=1e-5).generation > 9


def test_more_time_changes_when_a_search_ends_and_not_how_long_its_trainings_are():
    first = search(budget=600.0)
    more = extended(first, budget=1200.0, elapsed=590.0, test_seconds=5.0)
    assert (more.visits, more.rungs, more.top, more.generation) == (
        first.visits,
        first.rungs,
        first.top,
        first.generation,
    )
    assert 590.0 < more.search_until < more.finish_by < 1200.0
