"""Several label columns: each has its own task, and a row may lack some of them."""

import numpy as np
import pytest

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.several import parts_of

TASKS = {"columns": {"label": ["label", "size", "tags"]}}


@pytest.fixture
def labelled(memes):
    """Return pictures with a class, a quantity that every fifth row lacks, and tags."""
    for number, row in enumerate(memes.rows):
        row["size"] = None if number % 5 == 0 else number / 10
        row["tags"] = ["small"] if number < 30 else ["large", "late"]
    return memes


def test_each_column_gets_the_task_of_its_values(labelled):
    data, report = labelled.prepare(**TASKS)
    target = data.signature.target
    assert [(part.name, part.target.task) for part in parts_of(target)] == [
        ("label", "classification"),
        ("size", "regression"),
        ("tags", "multilabel"),
    ]
    assert target.labels == ("label=no", "label=yes", "size", "tags=large", "tags=late", "tags=small")
    assert "size: regression, because size holds fractions" in report.task


def test_a_row_without_one_of_its_labels_stays_and_is_counted(labelled):
    data, report = labelled.prepare(**TASKS)
    labels = data.labels(data.rows("train")).numpy()
    assert report.counts["rows without a label for size, from which it does not learn"] == 12
    ids = data.ids(data.rows("train"))
    assert [bool(np.isnan(row[1])) for row in labels] == [int(identity) % 5 == 0 for identity in ids]
    assert not np.isnan(labels[:, [0, 2, 3, 4]]).any()


def test_a_quantity_is_standardised_over_the_rows_that_have_it(labelled):
    data, _ = labelled.prepare(**TASKS)
    rows = data.rows("train")
    mean, deviation = data.target_scale
    size = data.labels(rows).numpy()[:, 1] * deviation[2] + mean[2]
    assert np.nanmean(data.labels(rows).numpy()[:, 1]) == pytest.approx(0, abs=1e-6)
    truth = [np.nan if int(i) % 5 == 0 else int(i) / 10 for i in data.ids(rows)]
    np.testing.assert_allclose(size, truth, atol=1e-5)
    assert (mean[[0, 1, 3, 4, 5]] == 0).all()


def test_a_row_without_any_label_is_set_aside(labelled):
    labelled.rows[7].update(label=None, size=None, tags=None)
    _, report = labelled.prepare(**TASKS)
    assert labelled.set_aside(report)["00007"]["reason"] == "label is missing"


def test_a_label_that_does_not_fit_its_task_is_named(labelled):
    labelled.rows[7]["size"] = "big"
    _, report = labelled.prepare(**TASKS, tasks={"size": "regression"})
    entry = labelled.set_aside(report)["00007"]
    assert (entry["reason"], entry["detail"]) == ("label does not fit its task", "size")


def test_classes_are_counted_over_the_rows_that_have_one(labelled):
    for row in labelled.rows[:20]:
        row["label"] = None
    data, _ = labelled.prepare(**TASKS)
    assert data.class_counts[:2].sum() == data.labelled[0] < data.labelled[2] == len(data.rows("train"))


def test_a_task_for_a_column_that_is_no_label_is_refused(labelled):
    with pytest.raises(DataError, match=r"data\.tasks\.sizes: there is no such label column\. Did you mean 'size'\?"):
        labelled.prepare(**TASKS, tasks={"sizes": "regression"})


def test_a_column_with_one_value_is_refused_by_name(labelled):
    for row in labelled.rows:
        row["tags"] = ["all"]
    with pytest.raises(DataError, match="Column tags must hold at least two different labels"):
        labelled.prepare(**TASKS)


@pytest.mark.parametrize(
    "settings", [{"task": "multitask"}, {"tasks": {"label": "regression"}}, {**TASKS, "task": "regression"}]
)
def test_settings_that_contradict_the_number_of_columns_are_refused(labelled, settings):
    with pytest.raises(ConfigError, match="several label columns"):
        labelled.prepare(**settings)
