"""``Classifier`` keeps scikit-learn's conventions."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from chiasma import Classifier
from chiasma.core.errors import ConfigError, DataError

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("classifier")

QUICK = {"model.dim": 16, "train.epochs": 4, "evaluate.seeds": 1, "evaluate.finalists": 1, "evaluate.resamples": 200}
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}

NEED_A_MATRIX = [
    "check_fit_score_takes_y",
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_estimators_dtypes",
    "check_classifiers_one_label",
    "check_classifiers_classes",
    "check_classifiers_train",
    "check_methods_sample_order_invariance",
    "check_dict_unchanged",
    "check_fit_idempotent",
]
"""Checks that do not apply, because they fit random numbers, in which there is nothing to see or to read.

The tags say so (``two_d_array=False``), so ``check_estimator`` skips them; tests below say the same of real rows.
"""


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RUNS", "CACHE", "STATE"):
            patch.setenv(f"CHIASMA_{name}", str(folder / name.lower()))
        yield folder


def rows(count: int = 120) -> list[dict]:
    """Return pictures with a claim about their colour, and whether it is true: 1 or 0."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(count):
        name = ("red", "blue")[k % 2]
        pixels = np.clip(np.array(COLOURS[name]) + rng.integers(-20, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
        said = ("red", "blue")[(k // 2) % 2]
        found.append({"image": pixels, "text": f"number {k} is {said}", "label": int(name == said)})
    return found


def small(**options) -> Classifier:
    return Classifier(**{"budget": 2, "workers": 1, "settings": QUICK, **options})


@pytest.fixture(scope="module")
def fitted(places) -> Classifier:
    return small().fit(rows())


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_mixin_order,
    ],
    ids=lambda check: check.__name__,
)
def test_the_checks_of_scikit_learn_that_apply_pass(check):
    check("Classifier", Classifier())


@pytest.mark.parametrize("name", NEED_A_MATRIX)
def test_a_check_that_fits_numbers_is_told_what_is_accepted(name):
    with pytest.raises((DataError, AssertionError), match=r"X must be the path of a manifest|did not raise|Classifier"):
        getattr(estimator_checks, name)("Classifier", Classifier())


def test_fit_returns_itself_and_leaves_the_parameters_alone(fitted):
    assert fitted.get_params() == small().get_params()


def test_fitting_does_not_change_the_rows():
    given = rows(6)
    before = [dict(row) for row in given]
    with pytest.raises(DataError):
        small().fit(given)
    assert all(
        row["image"] is old["image"] and row["text"] == old["text"] for row, old in zip(given, before, strict=True)
    )


def test_scikit_learn_sees_a_classifier():
    assert is_classifier(Classifier())
    assert not Classifier().__sklearn_tags__().input_tags.two_d_array


def test_a_clone_has_the_parameters_and_no_model(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "classes_")


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score"])
def test_before_fit_nothing_is_predicted(method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(Classifier(), method)(rows(4))


@pytest.mark.parametrize("table", [np.zeros((4, 3)), [1, 2], 3, "text that is no file.csv"])
def test_what_is_no_table_is_refused(table):
    with pytest.raises(DataError):
        small().fit(table, None)


def test_a_matrix_is_told_what_is_accepted():
    with pytest.raises(DataError, match=r"a pandas DataFrame, or a list of dicts .* but got ndarray of shape \(4, 3\)"):
        small().fit(np.zeros((4, 3)), [0, 1, 0, 1])


def test_labels_of_another_length_are_refused():
    with pytest.raises(DataError, match="has 3 for 4 rows"):
        small().fit(rows(4), [0, 1, 0])


def test_missing_labels_are_named():
    with pytest.raises(DataError, match="y is None and X has no column 'label'"):
        small().fit([{"text": "a"}, {"text": "b"}])


def test_one_class_only_is_refused():
    with pytest.raises(ValueError, match="at least two different labels"):
        small().fit(rows(), np.ones(120))


def test_a_bad_setting_is_refused_in_fit_not_in_init():
    with pytest.raises(ConfigError, match=r"run\.budget"):
        small(budget="soon").fit(rows())


@pytest.mark.slow
def test_probabilities_belong_to_the_classes(fitted):
    p = fitted.predict_proba(rows(10))
    assert p.shape == (10, 2)
    assert np.allclose(p.sum(1), 1)
    assert fitted.classes_.tolist() == [0, 1]


def test_integer_labels_stay_integers(fitted):
    predicted = fitted.predict(rows(10))
    assert predicted.dtype == fitted.classes_.dtype == np.array([0, 1]).dtype
    assert set(predicted) <= {0, 1}


def test_score_is_the_accuracy(fitted):
    truth = np.array([row["label"] for row in rows(40)])
    assert fitted.score(rows(40)) == fitted.score(rows(40), truth) == np.mean(fitted.predict(rows(40)) == truth)


def test_frames_and_pil_images_predict_like_dicts(fitted):
    table = pd.DataFrame(
        {"image": [Image.fromarray(row["image"]) for row in rows(6)], "text": [r["text"] for r in rows(6)]}
    )
    assert np.array_equal(fitted.predict_proba(table), fitted.predict_proba(rows(6)))


def test_files_predict_like_arrays(fitted, tmp_path):
    given = rows(6)
    for place, row in enumerate(given):
        Image.fromarray(row["image"]).save(tmp_path / f"{place}.png")
    paths = [{"image": str(tmp_path / f"{place}.png"), "text": row["text"]} for place, row in enumerate(given)]
    assert np.array_equal(fitted.predict_proba(paths), fitted.predict_proba(given))


def test_a_manifest_predicts_like_dicts(fitted, tmp_path):
    lines = [json.dumps({"text": row["text"]}) for row in rows(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    texts = [{"text": row["text"]} for row in rows(6)]
    assert np.array_equal(fitted.predict_proba(tmp_path / "rows.jsonl"), fitted.predict_proba(texts))


def test_a_missing_modality_is_allowed(fitted):
    frame = pd.DataFrame({"image": [None, rows(1)[0]["image"]], "text": ["number 1 is red", None]})
    assert fitted.predict_proba(frame).shape == (2, 2)


def test_a_saved_classifier_is_the_same_elsewhere(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model", device="cpu")
    assert np.array_equal(loaded.predict_proba(rows(6)), fitted.predict_proba(rows(6)))
    assert loaded.classes_.dtype == fitted.classes_.dtype
    assert loaded.get_params() == fitted.get_params()


def test_the_model_of_a_run_is_a_classifier(fitted):
    loaded = Classifier.load(Path(fitted.run_path_) / "model", device="cpu")
    assert loaded.classes_.tolist() == ["0", "1"]


def test_a_pickled_classifier_predicts_the_same(fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(copy.predict_proba(rows(4)), fitted.predict_proba(rows(4)))


def test_the_results_and_the_report_are_at_hand(fitted):
    assert fitted.results_.metric == "accuracy"
    assert (Path(fitted.run_path_) / "report.html").is_file()
    assert fitted.feature_names_in_.tolist() == ["image", "text"]
    assert fitted.n_features_in_ == 2


@pytest.mark.slow
def test_labels_may_be_given_beside_a_frame_with_other_columns():
    given = pd.DataFrame(rows()).rename(columns={"text": "claim", "label": "unused"})
    words = np.array(["no", "yes"])[[row["label"] for row in rows()]]
    chosen = small(image_column="image", text_columns=["claim"]).fit(given, words)
    assert chosen.classes_.tolist() == ["no", "yes"]
    assert set(chosen.predict(given.head(4))) <= {"no", "yes"}
