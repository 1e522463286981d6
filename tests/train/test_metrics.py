"""Metrics agree with scikit-learn's wherever that defines them, and are left out where nobody does."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from chiasma.core.errors import ConfigError
from chiasma.data.signature import Target
from chiasma.train.metrics import (
    METRICS,
    area_under_roc,
    average_precision,
    expected_calibration_error,
    higher_is_better,
    measure,
    objective_error,
    primary_metric,
)


def classes(count: int) -> Target:
    return Target(task="classification", labels=tuple(f"class {c}" for c in range(count)))


TAGS = Target(task="multilabel", labels=("a", "b", "c", "d"))
SIZES = Target(task="regression", labels=("height", "width"))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_classification_metrics_are_scikit_learns(count: int):
    rng = np.random.default_rng(count)
    labels = rng.integers(0, count, 200)
    logits = rng.normal(size=(200, count)) + 1.5 * np.eye(count)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = measure(logits, labels, classes(count))
    scores = p[:, 1] if count == 2 else p
    assert found == pytest.approx(
        {
            "accuracy": reference.accuracy_score(labels, p.argmax(1)),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, p.argmax(1)),
            "f1_macro": reference.f1_score(labels, p.argmax(1), average="macro"),
            "log_loss": reference.log_loss(labels, p),
            "auroc": reference.roc_auc_score(labels, scores, multi_class="ovr", average="macro"),
            "ece": found["ece"],
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), min_size=2, max_size=30),
    seed=st.integers(0, 1000),
)
def test_areas_are_exact_also_with_ties(scores: list[float], seed: int):
    positives = np.random.default_rng(seed).random(len(scores)) < 0.4
    found = area_under_roc(np.array(scores), positives)
    if positives.all() or not positives.any():
        assert found is None
    else:
        assert found == pytest.approx(reference.roc_auc_score(positives, scores))
    if positives.any():
        expected = reference.average_precision_score(positives, scores)
        assert average_precision(np.array(scores), positives) == pytest.approx(expected)


def test_auroc_is_left_out_where_only_one_class_is_present():
    found = measure(np.zeros((4, 2)), np.zeros(4, dtype=int), classes(2))
    assert "auroc" not in found
    assert found["balanced_accuracy"] == 1.0


def test_auroc_averages_over_the_classes_that_are_present():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    each = [reference.roc_auc_score(labels == c, p[:, c]) for c in range(3)]
    assert measure(logits, labels, classes(5))["auroc"] == pytest.approx(np.mean(each))


def test_a_predicted_class_that_never_occurs_lowers_f1_without_a_warning():
    logits = np.array([[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(logits, np.array([0, 1, 1]), classes(3))
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_log_loss_of_certain_mistakes_is_finite():
    assert measure(np.array([[2000.0, -2000.0]]), np.array([1]), classes(2))["log_loss"] == 4000.0


def test_multilabel_metrics_are_scikit_learns():
    rng = np.random.default_rng(3)
    labels = rng.random((80, 4)) < 0.3
    logits = rng.normal(size=(80, 4)) + labels
    p = 1 / (1 + np.exp(-logits))
    expected = {
        "map": reference.average_precision_score(labels, p, average="macro"),
        "f1_micro": reference.f1_score(labels, p > 0.5, average="micro"),
        "f1_macro": reference.f1_score(labels, p > 0.5, average="macro"),
        "log_loss": np.mean([reference.log_loss(labels[:, c], p[:, c]) for c in range(4)]),
    }
    assert measure(logits, labels.astype(np.float32), TAGS) == pytest.approx(expected)


def test_a_label_that_never_occurs_does_not_count_towards_mean_average_precision():
    labels = np.array([[1, 0, 0, 0], [0, 1, 0, 0]])
    assert measure(np.where(labels, 5.0, -5.0), labels, TAGS)["map"] == 1.0


def test_regression_metrics_are_in_the_units_of_the_data():
    rng = np.random.default_rng(4)
    truth, guesses = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    mean, deviation = np.array([100.0, 5.0]), np.array([20.0, 2.0])
    found = measure(guesses, truth, SIZES, target_scale=(mean, deviation))
    real_truth, real_guesses = truth * deviation + mean, guesses * deviation + mean
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(real_truth, real_guesses))
    assert found["rmse"] == pytest.approx(np.sqrt(reference.mean_squared_error(real_truth, real_guesses)))
    assert found["r2"] == pytest.approx(reference.r2_score(real_truth, real_guesses))


def test_r2_is_left_out_where_the_truth_does_not_vary():
    assert set(measure(np.ones((3, 2)), np.zeros((3, 2)), SIZES)) == {"mae", "rmse"}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False, True, True])
    assert expected_calibration_error(confidence, correct) == pytest.approx((4 * 0.2 + 2 * 0.45) / 6)


@pytest.mark.parametrize(("target", "expected"), [(classes(2), "accuracy"), (TAGS, "map"), (SIZES, "r2")])
def test_each_task_has_a_metric_that_decides(target: Target, expected: str):
    assert primary_metric(target) == expected
    assert primary_metric(target, METRICS[target.task][-1]) == METRICS[target.task][-1]


def test_an_unknown_metric_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'acuracy' is not a metric of classification\. Did you mean 'accuracy'"):
        primary_metric(classes(2), "acuracy")
    with pytest.raises(ConfigError, match=r"'aurocc' is unknown\. Did you mean 'auroc'"):
        higher_is_better("aurocc")


def test_an_objective_is_always_better_when_smaller():
    assert objective_error("accuracy", 0.75) == 0.25
    assert objective_error("log_loss", 0.75) == 0.75
    assert objective_error("r2", -1.0) == 2.0


def test_measuring_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one, but got 0, 0"):
        measure(np.zeros((0, 2)), np.zeros(0), classes(2))
