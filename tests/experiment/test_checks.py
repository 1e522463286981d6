"""Checks of predictions: each passes on what is in order, and fails on what it is for."""

import json
from dataclasses import replace

import numpy as np
import pytest

from chiasma.data.signature import Target
from chiasma.experiment.calibration import Calibrator
from chiasma.experiment.checked_predictions import check_predicted, write_checks
from chiasma.experiment.checking import Predictions, check_predictions
from chiasma.experiment.checks import Check, CheckRules, failures, summary_lines
from chiasma.experiment.expectation import Expectation, expect
from chiasma.experiment.predict import Answer, PredictedRow
from chiasma.experiment.report.render import render
from chiasma.experiment.results import Results
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.statistics import Bootstrap
from tests.experiment.sample_results import full_results
from tests.experiment.small_model import classifier, samples

TWO = Target(task="classification", labels=("no", "yes"))
TAGS = Target(task="multilabel", labels=("cat", "dog"))
PRICE = Target(task="regression", labels=("price",))
HALF = Calibrator(task="classification", thresholds=(0.5,))


def scores(count: int = 400, seed: int = 0, *, shift: float = 0.0) -> np.ndarray:
    yes = 1 / (1 + np.exp(-np.random.default_rng(seed).normal(shift, 1.5, count)))
    return np.stack([1 - yes, yes], axis=1)


def predictions(p: np.ndarray, *, threshold: float = 0.5, **changes) -> Predictions:
    decisions = ["yes" if yes > threshold else "no" for yes in p[:, 1]]
    calibrator = Calibrator(task="classification", thresholds=(threshold,))
    found = Predictions(TWO, len(p), decisions, p, calibrator, inputs=lambda places: [int(k) for k in places])
    return replace(found, **changes)


def checked(found: Predictions, *, expected: Expectation | None = None, **rules) -> dict[str, Check]:
    return {check.name: check for check in check_predictions(found, CheckRules(**rules), expected=expected)}


def truth(p: np.ndarray, seed: int = 1) -> Bootstrap:
    labels = (np.random.default_rng(seed).random(len(p)) < p[:, 1]).astype(int)
    return Bootstrap(labels, np.arange(len(p)), TWO)


def on_select(p: np.ndarray) -> Expectation:
    return expect(predictions(p).decisions, p, rules=CheckRules(), quantities=False)


def test_predictions_in_order_pass_every_check():
    p = scores()
    found = checked(predictions(p, judged=truth(p)), expected=on_select(scores(seed=5)))
    assert [name for name, check in found.items() if check.passed is not True] == []
    assert set(found) == set(CheckRules.model_fields["required"].default) | {
        "class_distribution",
        "duplicate_predictions",
        "drift_from_select",
        "better_than_random",
        "calibration_error",
    }


def test_empty_predictions_are_found():
    found = predictions(scores(30))
    empty = replace(found, decisions=[None, *found.decisions[1:]])
    assert checked(empty)["no_null_predictions"].value == 1
    assert checked(empty)["no_null_predictions"].passed is False


def test_a_label_that_the_model_does_not_know_is_found():
    found = predictions(scores(30))
    assert checked(replace(found, decisions=["maybe", *found.decisions[1:]]))["valid_predictions"].passed is False


def test_label_sets_and_values_are_checked_by_their_own_rules():
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    tags = Predictions(TAGS, 2, [("cat",), ("dog",)], p, Calibrator(task="multilabel"))
    assert all(check.passed is not False for check in checked(tags).values())
    assert checked(replace(tags, decisions=[("cat",), ("cow",)]))["valid_predictions"].passed is False
    assert checked(replace(tags, decisions=[(), ("dog",)]))["threshold_is_used"].value == 1
    prices = Predictions(PRICE, 2, [1.0, 250.0], np.array([[1.0], [250.0]]), Calibrator(task="regression"))
    assert all(check.passed is not False for check in checked(prices).values())
    assert checked(replace(prices, decisions=[1.0, float("inf")]))["valid_predictions"].passed is False


def test_probabilities_that_are_none_are_found():
    p = scores(30)
    p[3, 1] = np.nan
    assert checked(predictions(p))["no_null_probabilities"].value == 1
    p[3] = 0.5, 1.5
    assert checked(predictions(p))["valid_probability_range"].value == 1
    p[3] = 0.5, 0.4
    assert checked(predictions(p))["valid_probability_range"].value == 1


def test_too_few_predictions_fail_by_the_setting():
    found = predictions(scores(30), asked=40)
    assert checked(found)["prediction_count"].passed is True
    assert checked(found, predicted=0.9)["prediction_count"].passed is False
    nothing = replace(found, decisions=[], scores=np.zeros((0, 2)))
    assert [check.passed for check in checked(nothing).values()] == [False]


def test_predictions_that_ignore_the_threshold_of_select_are_found():
    p = scores(100)
    found = predictions(p, threshold=0.3)
    assert checked(found)["threshold_is_used"].passed is True
    between = int(((p[:, 1] > 0.3) & (p[:, 1] <= 0.5)).sum())
    ignoring = checked(replace(found, decisions=predictions(p).decisions))["threshold_is_used"]
    assert (ignoring.passed, ignoring.value) == (False, between)
    assert "the threshold that select chose (0.3)" in ignoring.words


def test_one_answer_for_all_fails_unless_select_had_it_too():
    p = scores(100)
    p[:, 1] = 0.6
    p[:, 0] = 0.4
    assert checked(predictions(p))["class_distribution"].passed is False
    assert checked(predictions(p), expected=on_select(scores()))["class_distribution"].passed is False
    rare = on_select(scores(shift=-8))
    assert checked(predictions(1 - p), expected=rare)["class_distribution"].passed is True
    assert checked(predictions(p[:5]))["class_distribution"].passed is None


def test_labels_show_whether_it_is_better_than_random():
    p = scores()
    assert checked(predictions(p, judged=truth(p)))["better_than_random"].passed is True
    guessed = checked(predictions(p, judged=truth(scores(seed=9))))["better_than_random"]
    assert guessed.passed is False
    assert guessed.threshold == 0.5
    assert "better_than_random" not in checked(predictions(p))
    alike = Bootstrap(np.ones(len(p), dtype=int), np.arange(len(p)), TWO)
    assert checked(predictions(p, judged=alike))["better_than_random"].passed is None


def test_overconfidence_fails_and_few_rows_are_given_their_luck():
    p = scores(shift=0.0)
    sure = np.where(p > 0.5, 0.99, 0.01)
    assert checked(predictions(sure, judged=truth(p)))["calibration_error"].passed is False
    few = checked(predictions(p[:30], judged=truth(p[:30])), calibration_error=0.0)["calibration_error"]
    assert few.passed is True
    assert few.threshold is not None
    assert few.threshold > 0.1


def test_equal_outputs_count_only_where_inputs_differ():
    p = scores(100)
    p[:40] = p[0]
    assert checked(predictions(p))["duplicate_predictions"].value == pytest.approx(0.4)
    same_input = predictions(p, inputs=lambda places: [max(int(k), 39) for k in places])
    assert checked(same_input)["duplicate_predictions"].value == 0


def test_drift_is_seen_and_few_rows_are_given_their_luck():
    expected = on_select(scores(800, seed=3))
    assert expected.scores[0] != ()
    assert max(map(len, expected.scores)) == 201
    moved = checked(predictions(scores(200, seed=4, shift=2.0)), expected=expected)["drift_from_select"]
    assert moved.passed is False
    alarms = 0
    for seed in range(60):
        same = checked(predictions(scores(40, seed=10 + seed)), expected=expected, drift=0.0)["drift_from_select"]
        alarms += same.passed is False
    assert alarms <= 1
    assert checked(predictions(scores(5)), expected=expected)["drift_from_select"].passed is None


def test_what_is_required_is_a_setting():
    p = scores(100)
    p[:, 1], p[:, 0] = 0.6, 0.4
    found = check_predictions(predictions(p), CheckRules(required=("class_distribution",)))
    assert [check.name for check in failures(found)] == ["class_distribution"]
    assert [check.name for check in failures(found, required=False)] == ["duplicate_predictions"]
    assert any(
        line.startswith("failed: class_distribution: 100% of the rows are 'yes'") for line in summary_lines(found)
    )


def test_the_saved_model_remembers_rules_and_select(tmp_path):
    shown = samples(30)
    model = classifier()
    rules = CheckRules(drift=0.3, required=("drift_from_select",))
    model.expecting(model.logits(shown), rules).save(tmp_path / "model")
    kept = SavedModel.load(tmp_path / "model", device="cpu").expectation
    assert kept.rules == rules
    assert kept.examples == 30
    assert sum(kept.answers.values()) == 30


def test_predicted_rows_are_checked_with_the_labels_beside_them(tmp_path):
    p = scores(60)
    labels = truth(p).labels
    rows = [
        PredictedRow(str(k), Answer(prediction=word, scores={"no": no, "yes": yes}), None, str(k).encode(), label)
        for k, (word, (no, yes), label) in enumerate(
            zip(predictions(p).decisions, p.tolist(), np.array(TWO.labels)[labels], strict=True)
        )
    ]
    found = {check.name: check for check in check_predicted(classifier(thresholds=(0.5,)), rows)}
    assert found["better_than_random"].passed is True
    rows[0] = replace(rows[0], label="unknown")
    assert "better_than_random" not in {check.name for check in check_predicted(classifier(), rows)}
    path = write_checks(tuple(found.values()), tmp_path / "out.csv")
    assert path.name == "out.checks.json"
    assert {row["name"] for row in json.loads(path.read_text())} == set(found)


def test_the_report_and_the_results_show_them():
    checks = check_predictions(predictions(scores(100)), CheckRules())
    results = full_results(checks=checks)
    assert Results.from_json(results.to_json()).checks == checks
    page = render(results)
    assert "Are its predictions in order?" in page
    assert "duplicate predictions" in page
