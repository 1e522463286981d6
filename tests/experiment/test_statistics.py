"""Intervals that cover, gains that are paired, and metrics under weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.signature import Target
from chiasma.experiment.results import Interval
from chiasma.experiment.statistics import (
    Bootstrap,
    UndefinedMetricError,
    detectable_gain,
    metric_interval,
    paired_gain,
    verdict,
)
from chiasma.experiment.weighted_metrics import group_metric
from chiasma.train.metrics import METRICS, measure

TWO = Target(task="classification", labels=("no", "yes"))
FOUR = Target(task="classification", labels=("a", "b", "c", "d"))
TAGS = Target(task="multilabel", labels=("red", "round", "new"))
VALUES = Target(task="regression", labels=("price", "age"))
TARGETS = {"two": TWO, "four": FOUR, "tags": TAGS, "values": VALUES}


def predictions(target: Target, n: int, *, seed: int, seeds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return logits ``[S n C]``, with ties, that know something about the labels, and the labels."""
    rng = np.random.default_rng(seed)
    width = target.outputs
    if target.task == "classification":
        labels = rng.integers(0, width, n)
        truth = np.eye(width)[labels]
    elif target.task == "multilabel":
        labels = (rng.random((n, width)) < 0.4).astype(np.float64)
        truth = 2 * labels - 1
    else:
        labels = truth = rng.normal(size=(n, width))
    logits = np.round(truth + rng.normal(size=(seeds, n, width)), 1)
    return logits, labels


def right_or_wrong(correct: np.ndarray) -> np.ndarray:
    """Return two-class logits ``[S n 2]`` for labels of zero that are right where ``correct [S n]`` is True."""
    return np.stack([correct, ~correct], axis=2).astype(np.float64)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_metric_under_drawn_groups_equals_the_metric_of_the_repeated_examples(name: str, seed: int):
    target = TARGETS[name]
    rng = np.random.default_rng(seed)
    logits, labels = predictions(target, 40, seed=seed)
    groups = np.r_[np.arange(8), rng.integers(0, 8, 32)]
    weights = rng.multinomial(7, np.full(8, 1 / 8), size=3)
    scale = (np.array([3.0, -1.0]), np.array([2.0, 0.5])) if target.task == "regression" else None
    for metric in METRICS[target.task]:
        weighted = group_metric(metric, logits[0], labels=labels, groups=groups, target=target, target_scale=scale)(
            weights.astype(np.float64)
        )
        for row, value in zip(weights, weighted, strict=True):
            repeated = np.repeat(np.arange(40), row[groups])
            expected = measure(logits[0][repeated], labels[repeated], target, target_scale=scale).get(metric)
            assert value == pytest.approx(expected, rel=1e-9, abs=1e-12) if expected is not None else np.isnan(value)


@pytest.mark.parametrize("task", ["two", "tags", "values"])
def test_an_unknown_metric_is_refused_by_name(task: str):
    logits, labels = predictions(TARGETS[task], 10, seed=0)
    with pytest.raises(ConfigError, match="'acuracy' is not a metric of"):
        group_metric("acuracy", logits[0], labels=labels, groups=np.arange(10), target=TARGETS[task])


def test_the_interval_of_an_accuracy_is_as_wide_as_the_binomial_says():
    rng = np.random.default_rng(1)
    correct = rng.random((1, 2000)) < 0.8
    interval = metric_interval(
        right_or_wrong(correct), np.zeros(2000, int), np.arange(2000), metric="accuracy", target=TWO
    )
    p = correct.mean()
    assert interval.value == pytest.approx(p)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * np.sqrt(p * (1 - p) / 2000), rel=0.06)


def test_the_interval_of_an_error_is_that_of_a_mean():
    rng = np.random.default_rng(2)
    errors = rng.exponential(size=(1, 1500, 1))
    one = Target(task="regression", labels=("price",))
    interval = metric_interval(errors, np.zeros((1500, 1)), np.arange(1500), metric="mae", target=one)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * errors.std() / np.sqrt(1500), rel=0.06)


def simulate(rng: np.random.Generator, *, groups: int, size: int, seeds: int, spread: float) -> np.ndarray:
    """Return which answers are right ``[S groups*size]``; groups agree, seeds differ, half are right."""
    shared = rng.normal(size=(1, groups, 1)) + 0.7 * rng.normal(size=(1, groups, size))
    noise = 0.7 * rng.normal(size=(seeds, groups, size)) + spread * rng.normal(size=(seeds, 1, 1))
    return (shared + noise > 0).reshape(seeds, -1)


def coverage(*, groups: int, size: int, seeds: int, spread: float, clustered: bool = True, runs: int = 300) -> float:
    rng = np.random.default_rng(7)
    names = np.repeat(np.arange(groups), size) if clustered else np.arange(groups * size)
    hits = 0
    for _ in range(runs):
        correct = simulate(rng, groups=groups, size=size, seeds=seeds, spread=spread)
        bootstrap = Bootstrap(np.zeros(groups * size, int), names, TWO, resamples=400)
        interval = bootstrap.interval(right_or_wrong(correct), "accuracy")
        hits += interval.low <= 0.5 <= interval.high
    return hits / runs


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.1), (5, 0.1)])
def test_intervals_contain_the_truth_nineteen_times_in_twenty(seeds: int, spread: float):
    # Three standard errors of a proportion over 300 runs are 3.8 points; crossed draws err on the wide side.
    assert 0.912 <= coverage(groups=120, size=4, seeds=seeds, spread=spread) <= 0.995


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.8), (3, 0.912), (5, 0.912)])
def test_a_handful_of_seeds_still_covers_the_truth_where_they_are_all_that_differs(seeds: int, least: float):
    assert coverage(groups=120, size=4, seeds=seeds, spread=0.5) >= least


def test_intervals_that_ignore_groups_would_miss_the_truth():
    assert coverage(groups=120, size=4, seeds=1, spread=0.0, clustered=False) < 0.88


def test_a_perfect_score_still_has_an_interval():
    interval = metric_interval(
        right_or_wrong(np.ones((3, 300), bool)), np.zeros(300, int), np.arange(300), metric="accuracy", target=TWO
    )
    assert (interval.value, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(0.025 ** (1 / 300))


def test_an_always_wrong_model_has_an_interval_too():
    interval = metric_interval(
        right_or_wrong(np.zeros((1, 50), bool)), np.zeros(50, int), np.arange(50), metric="accuracy", target=TWO
    )
    assert (interval.value, interval.low) == (0.0, 0.0)
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 50))


@pytest.mark.parametrize("name", TARGETS)
def test_identical_arms_gain_nothing_and_show_no_difference(name: str):
    target = TARGETS[name]
    logits, labels = predictions(target, 60, seed=3, seeds=2)
    for metric in METRICS[target.task]:
        gain, _ = paired_gain(logits, logits, labels, np.arange(60) // 2, metric=metric, target=target, resamples=200)
        assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)
        assert verdict(gain) == "no difference"


def test_arms_that_never_differ_still_do_not_detect_every_gain():
    logits, labels = predictions(TWO, 500, seed=3)
    _, detectable = paired_gain(logits, logits, labels, np.arange(500), metric="accuracy", target=TWO)
    assert detectable == pytest.approx(detectable_gain(2 / 500))


@pytest.mark.parametrize(("metric", "target"), [("accuracy", FOUR), ("log_loss", FOUR), ("mae", VALUES)])
def test_a_gain_is_positive_where_the_winner_is_better(metric: str, target: Target):
    good, labels = predictions(target, 400, seed=4)
    bad = good + np.random.default_rng(5).normal(size=good.shape)
    gain, _ = paired_gain(good, bad, labels, np.arange(400), metric=metric, target=target)
    loss, _ = paired_gain(bad, good, labels, np.arange(400), metric=metric, target=target)
    assert verdict(gain) == "better"
    assert verdict(loss) == "worse"
    assert loss.value == pytest.approx(-gain.value)


def test_pairing_makes_a_small_gain_visible():
    rng = np.random.default_rng(6)
    behind = rng.random((1, 1000)) < 0.7
    ahead = behind.copy()
    ahead[0, np.flatnonzero(~behind[0])[:15]] = True
    labels, groups = np.zeros(1000, int), np.arange(1000)
    gain, detectable = paired_gain(
        right_or_wrong(ahead), right_or_wrong(behind), labels, groups, metric="accuracy", target=TWO
    )
    alone = metric_interval(right_or_wrong(behind), labels, groups, metric="accuracy", target=TWO)
    assert gain.value == pytest.approx(0.015)
    assert verdict(gain) == "better"
    assert gain.high - gain.low < (alone.high - alone.low) / 3
    assert detectable == pytest.approx(2.8016 * np.sqrt(0.015 * 0.985 / 1000), rel=0.06)


def test_a_floor_with_one_fit_is_paired_with_every_seed():
    winner, labels = predictions(FOUR, 200, seed=8, seeds=3)
    floor = winner[:1]
    groups = np.arange(200)
    once, _ = paired_gain(winner, floor, labels, groups, metric="accuracy", target=FOUR)
    repeated, _ = paired_gain(winner, np.repeat(floor, 3, axis=0), labels, groups, metric="accuracy", target=FOUR)
    assert once == repeated


def test_arms_with_different_numbers_of_seeds_cannot_be_paired():
    logits, labels = predictions(TWO, 20, seed=0, seeds=3)
    with pytest.raises(ValueError, match="as many seeds, or one, but got 3 and 2"):
        paired_gain(logits, logits[:2], labels, np.arange(20), metric="accuracy", target=TWO)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    logits, labels = predictions(FOUR, 150, seed=9)
    groups = np.arange(150)
    first, again, other = (
        metric_interval(logits, labels, groups, metric="f1_macro", target=FOUR, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_the_names_and_the_order_of_groups_do_not_matter():
    logits, labels = predictions(FOUR, 90, seed=10)
    groups = np.arange(90) // 3
    plain = metric_interval(logits, labels, groups, metric="accuracy", target=FOUR)
    named = metric_interval(logits, labels, groups * 17 + 1000, metric="accuracy", target=FOUR)
    assert plain == named


def test_every_metric_that_the_labels_define_gets_an_interval():
    logits, labels = predictions(TWO, 80, seed=11)
    intervals = Bootstrap(labels, np.arange(80), TWO, resamples=200).intervals(logits)
    assert list(intervals) == list(METRICS["classification"])
    assert all(i.low <= i.value <= i.high for i in intervals.values())
    one_class = Bootstrap(np.zeros(80, int), np.arange(80), TWO, resamples=200).intervals(logits)
    assert set(METRICS["classification"]) - set(one_class) == {"auroc"}


def test_an_undefined_metric_says_so():
    logits, _ = predictions(TWO, 30, seed=12)
    with pytest.raises(UndefinedMetricError, match="auroc is not defined on these labels"):
        metric_interval(logits, np.ones(30, int), np.arange(30), metric="auroc", target=TWO)


def test_one_group_is_refused():
    logits, labels = predictions(TWO, 30, seed=12)
    with pytest.raises(DataError, match="at least two independent groups of examples, but got 1"):
        metric_interval(logits, labels, np.zeros(30), metric="accuracy", target=TWO)


def test_logits_without_a_seed_axis_are_refused():
    logits, labels = predictions(TWO, 30, seed=12)
    with pytest.raises(ValueError, match=r"logits must be \[seeds, 30 examples, outputs\], but have shape \(30, 2\)"):
        metric_interval(logits[0], labels, np.arange(30), metric="accuracy", target=TWO)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match="each label needs a group, but there are 30 and 29"):
        Bootstrap(np.zeros(30), np.arange(29), TWO)


@given(st.floats(1e-6, 10), st.sampled_from([0.9, 0.95, 0.99]), st.floats(0.6, 0.99))
def test_a_gain_of_the_detectable_size_is_found_with_the_stated_power(error: float, level: float, power: float):
    gain = detectable_gain(error, level=level, power=power)
    assert 1 - norm.cdf(norm.ppf((1 + level) / 2) - gain / error) == pytest.approx(power, abs=1e-9)


def test_the_detectable_gain_at_the_usual_levels_is_2_8_standard_errors():
    assert detectable_gain(1.0) == pytest.approx(2.8016, abs=1e-4)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.03, "better"), (-0.03, -0.01, "worse"), (-0.01, 0.02, "no difference"), (0.0, 0.02, "no difference")],
)
def test_a_difference_is_claimed_only_where_the_interval_excludes_zero(low: float, high: float, expected: str):
    assert verdict(Interval(value=(low + high) / 2, low=low, high=high)) == expected


def test_large_data_with_a_ranked_metric_uses_fewer_resamples():
    logits = np.zeros((1, 100_000, 100))
    bootstrap = Bootstrap(np.zeros(100_000, int), np.arange(100_000), FOUR)
    assert bootstrap._resamples(logits, "auroc") == 200
    assert bootstrap._resamples(logits, "accuracy") == 2000
