import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasma.search.archive import SharedArchive


def archive_of(evaluations):
    archive = SharedArchive()
    for evaluation in evaluations:
        archive.add(evaluation)
    return archive


def names(evaluations):
    return [evaluation.candidate.design.model.encoders["text"].buckets - 1 for evaluation in evaluations]


def test_standings_rank_by_mean_over_seeds_and_the_earlier_design_wins_ties(evaluated):
    archive = archive_of(
        [
            evaluated(0, 0.4),
            evaluated(1, 0.1, seed=0),
            evaluated(2, 0.2),
            evaluated(1, 0.3, seed=1),
            evaluated(3, 0.05),
        ]
    )
    standings = archive.standings()
    assert names(standings) == [3, 1, 2, 0]
    assert standings[1].objectives["error"] == pytest.approx(0.2)
    assert len(standings[1].evaluations) == 2


def test_a_design_stands_where_its_longest_training_put_it(evaluated):
    archive = archive_of([evaluated(0, 0.1, rung=0), evaluated(0, 0.3, rung=1), evaluated(1, 0.2, rung=0)])
    assert names(archive.standings()) == [1, 0]
    assert archive.standings()[1].rung == 1


def test_a_design_that_was_rejected_later_has_no_standing(evaluated):
    archive = archive_of([evaluated(0, 0.1), evaluated(0, None, rung=1, rejected=True), evaluated(1, 0.5)])
    assert names(archive.standings()) == [1]


def test_a_failure_of_ours_is_not_held_against_a_design(evaluated):
    archive = archive_of([evaluated(0, 0.1), evaluated(0, None, rung=1)])
    assert names(archive.standings()) == [0]


def test_the_front_holds_what_no_other_beats_best_first(evaluated):
    archive = archive_of(
        [
            evaluated(0, 0.3, flops=1.0),
            evaluated(1, 0.1, flops=9.0),
            evaluated(2, 0.3, flops=2.0),
            evaluated(3, 0.2, flops=5.0),
            evaluated(4, None, rejected=True),
        ]
    )
    assert names(archive.front(["error", "flops"])) == [1, 3, 0]
    assert names(archive.front(["flops"])) == [0]


def test_an_objective_that_was_not_measured_is_named(evaluated):
    archive = archive_of([evaluated(0, 0.3)])
    with pytest.raises(ValueError, match="scored without latency; it has error"):
        archive.front(["error", "latency"])


def test_an_empty_archive_has_no_incumbent_and_no_front(evaluated):
    archive = archive_of([evaluated(0, None, rejected=True)])
    assert archive.incumbent(np.random.default_rng(0)) is None
    assert archive.front(["error"]) == []
    assert len(archive) == 1


def test_better_designs_are_drawn_more_often_and_all_sometimes(evaluated):
    archive = archive_of([evaluated(number, number / 10) for number in range(5)])
    rng = np.random.default_rng(0)
    drawn = collections.Counter(archive.incumbent(rng).design.model.encoders["text"].buckets - 1 for _ in range(2000))
    assert [number for number, _ in drawn.most_common()] == [0, 1, 2, 3, 4]


def test_what_is_known_of_a_design_comes_in_recorded_order(evaluated):
    first, second = evaluated(0, 0.3, rung=0), evaluated(0, 0.2, rung=1)
    archive = archive_of([first, evaluated(1, 0.9), second])
    assert archive.by_hash(first.candidate.hash) == [first, second]
    assert archive.by_hash("unknown") == []


@settings(deadline=None)
@given(errors=st.lists(st.integers(0, 5), min_size=1, max_size=12), order=st.randoms(use_true_random=False))
def test_means_do_not_depend_on_the_order_of_arrival(evaluated, errors, order):
    rows = [evaluated(0, error / 7, seed=seed) for seed, error in enumerate(errors)]
    shuffled = order.sample(rows, len(rows))
    assert archive_of(rows).standings()[0].objectives == archive_of(shuffled).standings()[0].objectives
