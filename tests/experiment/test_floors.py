"""Floors: what a design must beat, fitted on train and steer, measured like everything else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from chiasma.core.errors import SealedTestError
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.data.signature import Target
from chiasma.experiment.floor_thread import ClassicalFloors
from chiasma.experiment.floors import (
    FEWEST_ROWS,
    MOST_ROWS,
    ClassicalFloor,
    Majority,
    affordable_rows,
    classical_floors,
    prior,
)
from chiasma.train.metrics import measure


def dataset_of(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Dataset:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset, _ = prepare(DataSpec(source=str(source), **settings), seed=0, cache=folder / "cache")
    return dataset


def fitted_floors(dataset: Dataset) -> tuple[ClassicalFloor, ...]:
    with ClassicalFloors(dataset, seed=0) as floors:
        floors.start()
        found = floors.fitted()
        assert floors.missing() == []
        return found


def split_of(k: int) -> str:
    return ("train", "train", "train", "select", "test")[k % 5]


def accuracies(dataset: Dataset) -> dict[str, float]:
    rows = dataset.rows("select")
    labels = dataset.labels(rows).numpy()
    target = dataset.signature.target
    return {f.name: measure(f.logits(dataset, rows), labels, target)["accuracy"] for f in fitted_floors(dataset)}


@pytest.fixture(scope="module")
def colours_and_words(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The label is the colour of the picture and the word of the text together: four classes, two bits."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    rows = []
    for k in range(300):
        bright, kind = int(rng.integers(2)), int(rng.integers(2))
        pixels = rng.integers(0, 60, (8, 8, 3)) + 150 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
        text = f"this is a {('cat', 'dog')[kind]} number {k}"
        label = f"{('dark', 'bright')[bright]} {('cat', 'dog')[kind]}"
        rows.append({"id": k, "img": f"{k}.png", "text": text, "label": label, "split": split_of(k)})
    return dataset_of(folder, rows)


def test_words_know_half_pixels_know_half_and_both_know_all(colours_and_words: Dataset):
    found = accuracies(colours_and_words)
    assert list(found) == ["majority", "tfidf_logistic", "image_logistic", "tfidf_image_logistic"]
    assert found["majority"] < 0.45
    assert 0.3 < found["tfidf_logistic"] < 0.75
    assert 0.3 < found["image_logistic"] < 0.75
    assert found["tfidf_image_logistic"] > 0.95


def test_floors_give_log_probabilities_and_say_what_they_cost(colours_and_words: Dataset):
    rows = colours_and_words.rows("select")
    for floor in fitted_floors(colours_and_words):
        outputs = floor.logits(colours_and_words, rows)
        assert outputs.shape == (len(rows), 4)
        np.testing.assert_allclose(np.exp(outputs).sum(1), 1)
        assert floor.seconds > 0
        assert floor.description


def test_floors_are_the_same_each_time(colours_and_words: Dataset):
    rows = colours_and_words.rows("select")
    for first, second in zip(fitted_floors(colours_and_words), fitted_floors(colours_and_words), strict=True):
        np.testing.assert_array_equal(first.logits(colours_and_words, rows), second.logits(colours_and_words, rows))


def test_fitting_never_touches_select_or_test(colours_and_words: Dataset, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    rows_of = Dataset.rows

    def rows(self: Dataset, split: str) -> np.ndarray:
        asked.append(split)
        return rows_of(self, split)

    monkeypatch.setattr(Dataset, "rows", rows)
    fitted_floors(colours_and_words)
    assert set(asked) == {"train", "steer"}
    with pytest.raises(SealedTestError):
        colours_and_words.rows("test")


def test_a_floor_that_was_not_fitted_says_so(colours_and_words: Dataset):
    floor = classical_floors(colours_and_words.signature)[1]
    with pytest.raises(ValueError, match="floor 'tfidf_logistic' must be fitted before it predicts"):
        floor.logits(colours_and_words, np.arange(2))


def test_a_class_that_the_sample_lacks_is_unlikely_but_not_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"id": k, "text": f"{'ab'[k % 2]} {k}", "label": "ab"[k % 2], "split": split_of(k)} for k in range(600)]
    rows += [{"id": 900 + k, "text": f"c {k}", "label": "c", "split": "train"} for k in range(3)]
    dataset = dataset_of(tmp_path, rows)
    at = dataset.signature.target.labels.index("c")
    monkeypatch.setattr("chiasma.experiment.floors.MOST_ROWS", 30)
    for floor in fitted_floors(dataset):
        outputs = floor.logits(dataset, dataset.rows("select"))
        assert np.isfinite(outputs).all()
        assert outputs[:, at].max() < np.log(0.05)


def test_texts_without_words_leave_only_the_prior(tmp_path: Path):
    rows = [{"id": k, "text": "!" * (1 + k), "label": "ab"[k % 3 == 0], "split": split_of(k)} for k in range(120)]
    dataset = dataset_of(tmp_path, rows)
    outputs = fitted_floors(dataset)[1].logits(dataset, dataset.rows("select"))
    assert np.ptp(outputs, axis=0).max() < 1e-6


def test_each_label_of_several_has_its_own_model(tmp_path: Path):
    names = ("red", "round", "new")
    rng = np.random.default_rng(1)
    rows = []
    for k in range(300):
        has = [name for name in names[:2] if rng.random() < 0.5]
        rows.append({"id": k, "text": f"item {k} {' '.join(has)}", "label": [*has, "new"], "split": split_of(k)})
    dataset = dataset_of(tmp_path, rows, task="multilabel")
    select = dataset.rows("select")
    majority, words = fitted_floors(dataset)
    labels, target = dataset.labels(select).numpy(), dataset.signature.target
    outputs = words.logits(dataset, select)
    assert measure(outputs, labels, target)["f1_macro"] > 0.97
    assert (outputs[:, target.labels.index("new")] > 2).all()
    assert np.ptp(majority.logits(dataset, select), axis=0).max() == 0


def test_a_regression_gets_ridge_and_the_mean(tmp_path: Path):
    rng = np.random.default_rng(2)
    words = ("tiny", "small", "large", "huge")
    rows = []
    for k in range(300):
        size = int(rng.integers(4))
        value = 10.0 * size + rng.normal()
        rows.append({"id": k, "text": f"a {words[size]} thing {k % 9}", "label": value, "split": split_of(k)})
    dataset = dataset_of(tmp_path, rows, task="regression")
    select = dataset.rows("select")
    majority, ridge = fitted_floors(dataset)
    labels, target = dataset.labels(select).numpy(), dataset.signature.target
    assert ridge.name == "tfidf_ridge"
    assert majority.description == "always the mean"
    assert measure(ridge.logits(dataset, select), labels, target)["r2"] > 0.9
    assert measure(majority.logits(dataset, select), labels, target)["r2"] < 0.05


def test_the_majority_answer_is_the_smoothed_frequency():
    target = Target(task="classification", labels=("a", "b", "c"))
    np.testing.assert_allclose(np.exp(prior(np.array([0, 0, 1]), target)), [3 / 6, 2 / 6, 1 / 6])


def test_the_majority_needs_no_inputs(colours_and_words: Dataset):
    floor = Majority().fit(colours_and_words)
    assert floor.logits(colours_and_words, np.arange(0)).shape == (0, 4)


def test_the_work_of_a_fit_is_bounded_by_rows():
    light, heavy = sparse.random_array((50, 1000), density=0.01), sparse.random_array((50, 1000), density=0.5)
    assert affordable_rows(light, 2) == MOST_ROWS
    assert FEWEST_ROWS < affordable_rows(heavy, 20) < MOST_ROWS
    assert affordable_rows(heavy, 5000) == FEWEST_ROWS


def test_a_sample_of_large_data_is_owned_up_to(colours_and_words: Dataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chiasma.experiment.floors.MOST_ROWS", 100)
    floor = fitted_floors(colours_and_words)[1]
    total = len(colours_and_words.rows("train"))
    assert floor.description.endswith(f"fitted on 100 of {total} rows")


def test_built_in_claims_are_at_chance_for_every_classical_floor(tmp_path: Path):
    dataset, _ = prepare(DataSpec(source="digit_claims", rows=2500), seed=0, cache=tmp_path)
    rows = dataset.rows("select")
    chance = 3 / np.sqrt(len(rows))
    assert all(abs(value - 0.5) < chance for value in accuracies(dataset).values())


@pytest.mark.slow
def test_the_question_alone_is_as_strong_a_floor_on_daquar_as_published(
    third_party: Callable[[str], Path], tmp_path: Path
):
    folder = third_party("daquar")
    tokens = {"image": str(folder / "mobilenet_v2_tokens.npz")}
    spec = DataSpec(source=str(folder / "manifest.jsonl"), features=tokens)
    dataset, _ = prepare(spec, seed=0, cache=tmp_path)
    select = dataset.rows("select")
    labels, target = dataset.labels(select).numpy(), dataset.signature.target
    words = classical_floors(dataset.signature)[1].fit(dataset)
    # Published on test: .291; select is harder. Image alone gives .08 there, and both give .28.
    assert 0.22 < measure(words.logits(dataset, select), labels, target)["accuracy"] < 0.30
