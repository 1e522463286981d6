"""Where a model fails."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from chiasma.data.signature import Target
from chiasma.experiment.diagnosis import confusion, label_table

THREE = Target(task="classification", labels=("a", "b", "c"))


def test_recall_precision_and_f1_are_the_usual_ones():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 200), rng.normal(size=(1, 200, 3))
    expected = precision_recall_fscore_support(labels, logits[0].argmax(1))
    rows = label_table(logits, labels, THREE)
    assert [row["label"] for row in rows] == ["a", "b", "c"]
    for column, name in enumerate(("precision", "recall", "f1", "count")):
        assert [row[name] for row in rows] == pytest.approx(list(expected[column]))


def test_an_answer_never_given_has_no_precision():
    logits = np.tile([1.0, 0.0, -1.0], (2, 4, 1))
    rows = label_table(logits, np.array([0, 0, 1, 1]), THREE)
    assert rows[1] == {"label": "b", "count": 2, "recall": 0.0, "precision": None, "f1": 0.0}
    assert rows[2] == {"label": "c", "count": 0, "recall": None, "precision": None, "f1": None}


def test_labels_are_judged_one_by_one():
    target = Target(task="multilabel", labels=("red", "new"))
    rows = label_table(np.array([[[1.0, -1.0], [1.0, 1.0]]]), np.array([[1.0, 0.0], [0.0, 1.0]]), target)
    assert [(row["recall"], row["precision"]) for row in rows] == [(1.0, 0.5), (1.0, 1.0)]


def test_values_of_a_regression_are_judged_in_their_units():
    target = Target(task="regression", labels=("price", "age"))
    labels = np.array([[0.0, 0.0], [1.0, 1.0]])
    rows = label_table(labels[None] + [1.0, 0.0], labels, target, target_scale=(np.zeros(2), np.array([10.0, 1.0])))
    assert rows[0]["mae"] == pytest.approx(10.0)
    assert rows[1] == {"label": "age", "mae": 0.0, "rmse": 0.0, "r2": 1.0}


def test_confusion_sums_over_seeds():
    rng = np.random.default_rng(1)
    labels, logits = rng.integers(0, 3, 50), rng.normal(size=(2, 50, 3))
    expected = sum(confusion_matrix(labels, one.argmax(1)) for one in logits)
    assert (np.array(confusion(logits, labels, THREE)) == expected).all()


def test_confusion_is_left_out_where_it_cannot_be_read():
    many = Target(task="classification", labels=tuple(map(str, range(16))))
    assert confusion(np.zeros((1, 3, 16)), np.zeros(3, int), many) == ()
