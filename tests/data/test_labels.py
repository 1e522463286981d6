import pandas as pd
import pytest

from chiasma.core.errors import DataError
from chiasma.data.findings import Findings
from chiasma.data.labels import decide_task, encode_labels, likely_typos, make_target, parse_labels, require_learnable


def frame(labels):
    columns = {"id": [str(n) for n in range(len(labels))], "line": range(1, len(labels) + 1), "split": None}
    return pd.DataFrame(columns).assign(label=pd.Series(labels, dtype=object))


@pytest.mark.parametrize(
    ("values", "task", "why"),
    [
        (["yes", "no"], "classification", "holds words"),
        (["0", "1", "1"], "classification", "2 different whole numbers"),
        ([1.0, 2.0], "classification", "2 different whole numbers"),
        ([True, False], "classification", "holds words"),
        (["0.5", "1"], "regression", "holds fractions"),
        ([0.25, 3], "regression", "holds fractions"),
        ([[0.25, 3.5]], "regression", "lists of fractions"),
        ([["a", "b"], []], "multilabel", "holds lists"),
        (["a|b", "a"], "multilabel", "joined by |"),
    ],
)
def test_the_task_is_told_from_the_labels_with_the_reason(values, task, why):
    decided, reason = decide_task(values, "auto", name="y")
    assert decided == task
    assert why in reason


def test_many_whole_numbers_are_not_guessed_to_be_classes_or_quantities():
    with pytest.raises(DataError, match=r"holds 200 different whole numbers; say whether"):
        decide_task(list(range(200)), "auto", name="price")


def test_what_the_config_says_goes_before_what_the_labels_look_like():
    assert decide_task(["1", "2"], "regression", name="y") == ("regression", "regression, as data.task says")


def test_one_class_only_is_refused():
    with pytest.raises(DataError, match=r"at least two different labels, but all 3 rows have 'cat'"):
        require_learnable(frame(["cat"] * 3), "classification", name="label")


def test_rows_without_a_label_are_set_aside_and_space_is_removed():
    findings = Findings()
    left = parse_labels(frame(["yes", None, "yes ", float("nan")]), "classification", findings)
    assert left["label"].tolist() == ["yes", "yes"]
    assert findings.reasons() == {"label is missing": 2}
    assert findings.counts["labels with surrounding space, which was removed"] == 1


def test_a_quantity_that_is_no_number_is_set_aside():
    findings = Findings()
    left = parse_labels(frame(["1.5", "much", "2", "inf"]), "regression", findings)
    assert left["label"].tolist() == [(1.5,), (2.0,)]
    assert findings.reasons() == {"label does not fit regression": 2}


def test_vectors_of_another_width_are_set_aside():
    findings = Findings()
    left = parse_labels(frame([[1.5, 2.0], [1.0], [3.0, 4.0]]), "regression", findings)
    assert len(left) == 2
    assert findings.reasons() == {"label does not hold 2 numbers": 1}


def test_rare_labels_that_look_like_common_ones_are_reported():
    sentences = likely_typos(["yes"] * 100 + ["no"] * 90 + ["Yes", "yess", "maybe"])
    assert sorted(sentence.split()[1] for sentence in sentences) == ["'Yes'", "'yess'"]
    assert "Label 'yess' (1 rows) looks like a misspelling of 'yes' (100 rows)." in sentences


def test_numbers_are_never_called_misspellings():
    assert likely_typos(["10"] * 100 + ["1"]) == []


def test_whole_numbers_are_ordered_as_numbers():
    assert make_target(["10", "9", "2"], "classification", name="y").labels == ("2", "9", "10")


def test_label_sets_become_memberships():
    labels = [("a", "b"), (), ("b",)]
    target = make_target(labels, "multilabel", name="y")
    assert encode_labels(labels, target).tolist() == [[1, 1], [0, 0], [0, 1]]
