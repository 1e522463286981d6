"""Schedules as functions of the step."""

import pytest

from chiasma.train.design import Constant, Cosine, Linear, OneCycle, OptimSpec, Plateau
from chiasma.train.schedule import PlateauState, after_evaluation, rate_factor


def factors(steps: int = 100, **settings) -> list[float]:
    optim = OptimSpec(**settings)
    return [rate_factor(optim, step=step, total_steps=steps) for step in range(steps)]


def test_warm_up_rises_linearly_to_the_peak_over_its_fraction_of_the_steps():
    rising = factors(schedule=Constant(), warmup=0.2)
    assert rising[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert set(rising[20:]) == {1.0}


def test_warm_up_can_be_counted_in_steps_however_long_the_training_is():
    for steps in (100, 1000):
        rising = factors(steps, schedule=Linear(), warmup=0.5, warmup_steps=40)
        assert rising[:40] == pytest.approx([(step + 1) / 40 for step in range(40)])
        assert rising[40] == 1.0
        assert rising[-1] == pytest.approx(1 / (steps - 40))


def test_a_training_shorter_than_its_warm_up_never_reaches_the_peak():
    assert factors(10, schedule=Linear(), warmup_steps=2000)[-1] == pytest.approx(10 / 2000)


def test_cosine_falls_from_the_peak_to_its_floor():
    falling = factors(1000, schedule=Cosine(floor=0.1), warmup=0.0)
    assert falling[0] == 1.0
    assert falling[500] == pytest.approx(0.55)
    assert falling[-1] == pytest.approx(0.1, abs=1e-4)
    assert falling == sorted(falling, reverse=True)


def test_linear_falls_by_the_same_amount_each_step():
    falling = factors(schedule=Linear(floor=0.0), warmup=0.0)
    assert falling == pytest.approx([1 - step / 100 for step in range(100)])


def test_one_cycle_starts_low_peaks_after_its_rise_and_ends_at_its_floor():
    cycle = factors(1000, schedule=OneCycle(rise=0.3, start=0.04, floor=0.001), warmup=0.0)
    assert cycle[0] == pytest.approx(0.04)
    assert max(range(1000), key=cycle.__getitem__) == 300
    assert cycle[300] == pytest.approx(1.0)
    assert cycle[-1] == pytest.approx(0.001, abs=1e-4)


def test_a_shorter_training_runs_through_the_same_schedule_faster():
    assert factors(10, warmup=0.0)[5] == pytest.approx(factors(1000, warmup=0.0)[500])


def test_a_training_of_one_step_learns():
    assert all(factors(1, schedule=kind, warmup=0.05)[0] > 0 for kind in (Cosine(), Linear(), Constant(), OneCycle()))


def test_a_plateau_halves_the_rate_after_its_patience_and_then_waits_anew():
    rules, state, seen = Plateau(factor=0.5, patience=2), PlateauState(), []
    for score in (0.5, 0.6, 0.6, 0.5, 0.7, 0.7, 0.6, 0.6, 0.6):
        state = after_evaluation(state, score=score, rules=rules)
        seen.append(state.factor)
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
