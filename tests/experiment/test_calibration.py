"""Temperatures and thresholds, fitted on select and honest elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from chiasma.data.signature import Target
from chiasma.experiment.calibration import Calibrator, best_threshold, fit_calibrator
from chiasma.train.metrics import measure

TWO = Target(task="classification", labels=("no", "yes"))
FOUR = Target(task="classification", labels=("a", "b", "c", "d"))
TAGS = Target(task="multilabel", labels=("red", "round"))
PRICE = Target(task="regression", labels=("price",))


def honest(target: Target, n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are exactly calibrated, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, target.outputs))
    if target.task == "classification":
        return logits, (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return logits, (rng.random(logits.shape) < expit(logits)).astype(np.float64)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_a_factor_on_the_logits(factor: float):
    logits, labels = honest(FOUR, 6000, seed=0)
    calibrator = fit_calibrator(logits * factor, labels, FOUR, metric="accuracy")
    assert calibrator.temperatures[0] == pytest.approx(factor, rel=0.08)


def test_each_label_has_its_own_temperature():
    logits, labels = honest(TAGS, 8000, seed=1)
    calibrator = fit_calibrator(logits * [0.5, 3.0], labels, TAGS, metric="map")
    assert calibrator.temperatures == pytest.approx((0.5, 3.0), rel=0.08)
    assert calibrator.thresholds == ()


def test_calibration_error_falls_on_unseen_examples():
    select, chosen = honest(FOUR, 2000, seed=2)
    test, truth = honest(FOUR, 4000, seed=3)
    described = fit_calibrator(3 * select, chosen, FOUR, metric="accuracy").describe(3 * test, truth)
    assert described is not None
    assert described.expected_error_before > 0.08
    assert described.expected_error_after < 0.03


def test_the_calibration_error_agrees_with_the_metric():
    logits, labels = honest(FOUR, 500, seed=4)
    described = Calibrator(task="classification", temperatures=(1.0,)).describe(logits, labels)
    assert described is not None
    assert described.expected_error_before == pytest.approx(measure(logits, labels, FOUR)["ece"])


def test_calibration_error_of_labels_is_that_of_single_decisions():
    logits, labels = honest(TAGS, 4000, seed=5)
    described = fit_calibrator(logits, labels, TAGS, metric="map").describe(4 * logits, labels)
    assert described is not None
    assert described.expected_error_before > 0.05


def test_a_select_split_without_errors_does_not_make_the_model_infinitely_sure():
    labels = np.arange(50) % 2
    logits = np.where(labels[:, None] == [0, 1], 1.0, -1.0)
    calibrator = fit_calibrator(logits, labels, TWO, metric="accuracy")
    assert calibrator.temperatures[0] > 0.2
    assert calibrator.probabilities(logits).max() < 0.999


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_temperature_never_changes_a_decision(seed: int):
    logits, labels = honest(FOUR, 60, seed=seed)
    calibrator = fit_calibrator(logits * 2.5, labels, FOUR, metric="accuracy")
    assert (calibrator.decide(logits) == logits.argmax(1)).all()
    np.testing.assert_allclose(calibrator.probabilities(logits).sum(1), 1)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1_macro"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), ties=st.booleans())
def test_the_threshold_is_the_best_one_there_is(metric: str, seed: int, ties: bool):
    rng = np.random.default_rng(seed)
    p = rng.random(30).round(1 if ties else 2)
    positives = rng.random(30) < 0.3
    positives[:2] = True, False
    chosen = best_threshold(p, positives, metric=metric)

    def score(threshold: float) -> float:
        decision = (p > threshold).astype(float)
        return measure(np.stack([0.5 - 0 * decision, decision], axis=1), positives.astype(int), TWO)[metric]

    assert score(chosen) == pytest.approx(max(score(t) for t in np.linspace(0.005, 0.995, 100)))


def test_equally_good_thresholds_go_to_a_half():
    p = np.array([0.1, 0.2, 0.8, 0.9])
    assert best_threshold(p, np.array([False, False, True, True]), metric="accuracy") == 0.5


def test_a_threshold_helps_a_metric_that_the_half_does_not_serve():
    rng = np.random.default_rng(6)
    labels = (rng.random(4000) < 0.1).astype(int)
    margin = rng.normal(size=4000) + 1.5 * labels - 2.5
    logits = np.stack([np.zeros(4000), margin], axis=1)
    calibrator = fit_calibrator(logits[:2000], labels[:2000], TWO, metric="f1_macro")
    before = measure(logits[2000:], labels[2000:], TWO)["f1_macro"]
    after = measure(calibrator.decision_logits(logits[2000:]), labels[2000:], TWO)["f1_macro"]
    assert after > before + 0.05
    decided = calibrator.decision_logits(logits[2000:]).argmax(1)
    assert (calibrator.decide(logits[2000:]) == decided).all()
    assert (decided == (calibrator.probabilities(logits[2000:])[:, 1] > calibrator.thresholds[0])).all()


def test_labels_get_thresholds_only_where_the_metric_judges_decisions():
    logits, labels = honest(TAGS, 300, seed=7)
    assert fit_calibrator(logits, labels, TAGS, metric="log_loss").thresholds == ()
    chosen = fit_calibrator(logits, labels, TAGS, metric="f1_macro")
    assert len(chosen.thresholds) == 2
    before, after = (measure(x, labels, TAGS)["f1_macro"] for x in (logits, chosen.decision_logits(logits)))
    assert after >= before


def test_more_than_two_classes_have_no_threshold():
    logits, labels = honest(FOUR, 100, seed=8)
    assert fit_calibrator(logits, labels, FOUR, metric="accuracy").thresholds == ()


def test_a_regression_is_left_alone():
    values = np.array([[0.3], [1.2]])
    calibrator = fit_calibrator(values, values, PRICE, metric="r2")
    assert calibrator == Calibrator(task="regression")
    assert (calibrator.probabilities(values) == values).all()
    assert (calibrator.decide(values) == values).all()
    assert calibrator.describe(values, values) is None
    assert calibrator.reliability(values, values) == ()


def test_reliability_counts_every_answer_once():
    logits, labels = honest(FOUR, 700, seed=9)
    bins = Calibrator(task="classification", temperatures=(1.0,)).reliability(logits, labels)
    assert sum(row["count"] for row in bins) == 700
    gap = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in bins) / 700
    assert gap == pytest.approx(measure(logits, labels, FOUR)["ece"])


def test_several_seeds_are_described_together():
    logits, labels = honest(FOUR, 200, seed=10)
    calibrator = fit_calibrator(logits, labels, FOUR, metric="accuracy")
    twice, once = (calibrator.describe(x, labels) for x in (np.stack([logits, logits]), logits))
    assert twice is not None
    assert once is not None
    assert twice.to_dict() == pytest.approx(once.to_dict())


def test_a_calibrator_survives_json():
    calibrator = Calibrator(task="classification", temperatures=(1.3,), thresholds=(0.4,))
    assert Calibrator.from_json(calibrator.to_json()) == calibrator
