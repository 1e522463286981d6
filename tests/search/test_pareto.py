import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chiasma.search.pareto import by_front, crowding, front_numbers, hypervolume, non_dominated


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


def test_fronts_are_peeled_one_after_the_other():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    assert front_numbers(points).tolist() == [0, 1, 1, 2, 3]


def test_the_ends_of_a_front_are_never_crowded_and_equal_points_are():
    points = np.array([[0.0, 3.0], [1.0, 2.0], [1.0, 2.0], [3.0, 0.0]])
    assert crowding(points).tolist() == [np.inf, 2.0, 0.0, np.inf]


def test_points_are_ordered_by_front_then_by_room_then_by_name():
    points = {
        7: {"error": 0.0, "flops": 4.0},
        1: {"error": 1.0, "flops": 3.0},
        2: {"error": 1.1, "flops": 2.9},
        3: {"error": 4.0, "flops": 0.0},
        4: {"error": 5.0, "flops": 5.0},
    }
    assert by_front(points, ("error", "flops")) == [3, 7, 2, 1, 4]
    assert by_front({}, ("error", "flops")) == []


def test_the_hypervolume_is_the_area_within_the_reference_point():
    points = np.array([[1.0, 2.0], [2.0, 1.0], [9.0, 9.0]])
    assert hypervolume(points, (3.0, 3.0)) == pytest.approx(3.0)
    assert hypervolume(points[2:], (3.0, 3.0)) == 0.0


def test_a_reference_point_of_another_length_is_refused():
    with pytest.raises(ValueError, match="points have 2 objectives, but the reference point has 3"):
        hypervolume(np.zeros((1, 2)), (1.0, 1.0, 1.0))
