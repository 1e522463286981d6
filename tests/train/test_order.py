"""Which rows each step sees."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chiasma.train.design import GrowthSpec, LoopSpec, TrainingSpec
from chiasma.train.order import DataOrder, evaluation_steps, micro_batches


@given(rows=st.integers(1, 300), batch_size=st.integers(1, 64), seed=st.integers(0, 5))
def test_an_epoch_sees_every_row_once_in_batches_of_nearly_equal_size(rows: int, batch_size: int, seed: int):
    order = DataOrder(np.arange(rows) * 3, batch_size=batch_size, seed=seed)
    batches = [order.batch(step) for step in range(order.steps_per_epoch)]
    sizes = [len(batch) for batch in batches]
    assert sorted(np.concatenate(batches)) == list(np.arange(rows) * 3)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_a_step_sees_the_same_rows_whatever_was_asked_before():
    walked, jumped = (DataOrder(np.arange(50), batch_size=8, seed=1) for _ in range(2))
    steps = [walked.batch(step) for step in range(30)]
    for step in (25, 3, 29):
        np.testing.assert_array_equal(jumped.batch(step), steps[step])


def test_epochs_and_seeds_differ():
    first, other = (DataOrder(np.arange(50), batch_size=50, seed=seed) for seed in (1, 2))
    assert not np.array_equal(first.batch(0), first.batch(1))
    assert not np.array_equal(first.batch(0), other.batch(0))


def test_micro_batches_are_never_empty():
    assert [len(part.rows) for part in micro_batches(np.arange(3), 8)] == [1, 1, 1]
    assert [len(part.rows) for part in micro_batches(np.arange(10), 4)] == [3, 3, 2, 2]


@given(total=st.integers(1, 500), evaluations=st.integers(1, 40))
def test_evaluations_are_spread_evenly_and_end_on_the_last_step(total: int, evaluations: int):
    steps = sorted(evaluation_steps(total_steps=total, evaluations=evaluations))
    assert steps[-1] == total
    assert len(steps) == min(total, evaluations)
    gaps = np.diff([0, *steps])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_a_part_of_a_training_is_evaluated_as_often_by_the_step_and_a_growing_one_as_often_as_the_whole():
    loop = LoopSpec(evaluations=20)
    assert [TrainingSpec(loop=loop).evaluations_in(part) for part in (0.01, 0.1, 0.3, 1.0)] == [1, 2, 6, 20]
    growing = TrainingSpec(loop=loop, growth=GrowthSpec())
    assert [growing.evaluations_in(part) for part in (0.1, 1.0)] == [20, 20]
    silent = TrainingSpec(loop=LoopSpec(train_on_steer=True, restore_best=False))
    assert silent.evaluations_in(1.0) == 0
