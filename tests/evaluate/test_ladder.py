import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.evaluate.ladder import Ladder, Rung, RungRow, promote, rank_correlations, spearman


def row(candidate, error, rung=0):
    if error is None:
        return RungRow(candidate, rung, Rejected(stage="train", reason="diverged"))
    return RungRow(candidate, rung, Scored(objectives={"error": error}))


def test_one_in_eta_climbs_and_the_best_goes_first():
    rows = [row(number, error) for number, error in enumerate([0.5, 0.1, 0.4, 0.2, 0.3, 0.6])]
    assert promote(rows, rung=0, eta=3) == [1, 3]
    assert promote(rows, rung=0, eta=2) == [1, 3, 4]


def test_ties_go_to_the_earlier_candidate():
    assert promote([row(2, 0.1), row(0, 0.1), row(1, 0.1)], rung=0, eta=3) == [0]


def test_what_was_rejected_or_failed_is_never_promoted():
    rows = [row(0, None), RungRow(1, 0, Failed(error="killed")), row(2, 0.9)]
    assert promote(rows, rung=0, eta=3, at_least=3) == [2]
    assert promote([*rows, row(2, None)], rung=0, eta=3, at_least=3) == []


def test_nothing_is_promoted_twice():
    rows = [row(number, number / 10) for number in range(6)]
    assert promote([*rows, row(0, 0.2, rung=1)], rung=0, eta=3) == [1]
    assert promote([*rows, row(0, None, rung=1)], rung=0, eta=3, started=[1]) == []


def test_at_least_one_climbs_unless_told_otherwise():
    assert promote([row(0, 0.3)], rung=0, eta=3) == [0]
    assert promote([row(0, 0.3)], rung=0, eta=3, at_least=0) == []
    assert promote([], rung=0, eta=3) == []


def test_seeds_are_averaged_before_the_comparison():
    assert promote([row(0, 0.1), row(0, 0.5), row(1, 0.25)], rung=0, eta=2) == [1]


ROWS = st.lists(
    st.builds(row, st.integers(0, 8), st.none() | st.integers(0, 4).map(lambda n: n / 7), st.integers(0, 1)),
    max_size=30,
)


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_in_which_results_arrive_does_not_matter(rows, order):
    assert promote(order.sample(rows, len(rows)), rung=0, eta=2) == promote(rows, rung=0, eta=2)


def test_rungs_must_rise_to_the_full_training():
    assert Ladder().top == 2
    with pytest.raises(ValueError, match=r"end at fraction 1, but their fractions are \[0.5, 0.2, 1.0\]"):
        Ladder(rungs=(Rung(fraction=0.5), Rung(fraction=0.2), Rung(fraction=1.0)))
    with pytest.raises(ValueError, match=r"their fractions are \[0.5\]"):
        Ladder(rungs=(Rung(fraction=0.5),))


def test_neighbouring_rungs_are_correlated_by_the_candidates_they_share():
    low = [row(number, number / 10) for number in range(6)]
    high = [row(number, (5 - number) / 10, rung=1) for number in range(5)]
    (found,) = rank_correlations([*low, *high])
    assert (found.lower, found.upper, found.pairs) == (0, 1, 5)
    assert found.spearman == pytest.approx(-1.0)


def test_fewer_than_four_pairs_have_no_correlation():
    (found,) = rank_correlations([row(n, n / 10, rung) for n in range(3) for rung in (0, 1)])
    assert (found.pairs, found.spearman) == (3, None)


def test_a_constant_side_has_no_correlation():
    assert spearman([1, 2, 3, 4], [5, 5, 5, 5]) is None


NUMBERS = st.integers(4, 12).flatmap(
    lambda size: st.tuples(*[st.lists(st.integers(0, 6), min_size=size, max_size=size)] * 2)
)


@given(NUMBERS)
def test_the_correlation_is_that_of_scipy(pair):
    first, second = pair
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, second) is None
    else:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
