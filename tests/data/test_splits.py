import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasma.data.splits import cut, grouped, straddling

FRACTIONS = {"steer": 0.1, "select": 0.15, "test": 0.2}

keys = st.lists(st.integers(-1, 12), min_size=1, max_size=60)


@given(keys, st.randoms(use_true_random=False))
def test_rows_that_share_a_key_share_a_group(first, random):
    second = [random.randint(-1, 12) for _ in first]
    links = [np.array(first), np.array(second)]
    groups = grouped(len(first), links)
    for link in links:
        for key in set(link[link >= 0].tolist()):
            assert len(set(groups[link == key])) == 1


@given(keys)
def test_rows_without_a_shared_key_stay_alone(values):
    link = np.array(values)
    groups = grouped(len(values), [link])
    expected = len(set(link[link >= 0].tolist())) + int((link < 0).sum())
    assert len(set(groups)) == expected
    assert sorted(set(groups)) == list(range(expected))


def test_keys_that_count_as_equal_join_their_groups():
    groups = grouped(4, [np.array([0, 1, 2, -1])], pairs={0: [(0, 2)]})
    assert groups.tolist() == [0, 1, 0, 2]


group_sizes = st.lists(st.integers(1, 8), min_size=20, max_size=120)


@settings(max_examples=60, deadline=None)
@given(group_sizes, st.integers(1, 5), st.integers(0, 2**31))
def test_no_group_straddles_and_the_shares_are_near_what_was_asked(sizes, classes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    strata = groups % classes
    splits = cut(groups, strata, fractions=FRACTIONS, seed=seed)
    for group in range(len(sizes)):
        assert len(set(splits[groups == group])) == 1
    for name, share in FRACTIONS.items():
        assert abs((splits == name).sum() - share * len(groups)) <= 2 * max(sizes) + classes


@given(group_sizes, st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_the_same_seed_gives_the_same_cut(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    first, second = (cut(groups, groups % 3, fractions=FRACTIONS, seed=seed) for _ in range(2))
    assert (first == second).all()


def test_another_seed_gives_another_cut():
    groups = np.arange(200)
    first, second = (cut(groups, groups % 2, fractions=FRACTIONS, seed=seed) for seed in (0, 1))
    assert (first != second).any()


def test_every_class_gets_its_share_of_every_split():
    groups = np.arange(1000)
    strata = (groups % 10 == 0).astype(int)
    splits = cut(groups, strata, fractions=FRACTIONS, seed=0)
    for name, share in FRACTIONS.items():
        assert (splits[strata == 1] == name).mean() == pytest.approx(share, abs=0.03)


def test_the_copy_in_the_less_important_split_is_the_one_that_leaks():
    keys = np.array([0, 0, 1, 1, -1, -1])
    splits = np.array(["train", "test", "select", "select", "train", "test"], dtype=object)
    assert straddling(keys, splits).tolist() == [True, False, False, False, False, False]
