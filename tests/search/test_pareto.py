import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chiasma.search.pareto import non_dominated


def brute_force(points):
    return np.array(
        [not any((other <= point).all() and (other < point).any() for other in points) for point in points], bool
    )


SMALL = st.integers(0, 4).map(float) | st.floats(-10, 10, allow_nan=False)


@given(st.tuples(st.integers(0, 25), st.integers(1, 4)).flatmap(lambda shape: arrays(float, shape, elements=SMALL)))
def test_the_front_is_that_of_the_definition(points):
    np.testing.assert_array_equal(non_dominated(points), brute_force(points))


def test_equal_points_stay_together():
    points = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])
    assert non_dominated(points).tolist() == [True, True, False]


def test_ten_thousand_points_take_no_time():
    points = np.random.default_rng(0).random((10_000, 2))
    assert 5 < non_dominated(points).sum() < 30


def test_a_missing_objective_is_refused():
    with pytest.raises(ValueError, match="must not hold NaN"):
        non_dominated(np.array([[1.0, np.nan]]))


def test_a_list_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r"a table \[n, m\] with m >= 1, but its shape is \(3,\)"):
        non_dominated(np.zeros(3))
