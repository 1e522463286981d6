"""A saved model: a folder that says everything, is checked byte by byte, and predicts wherever it lies."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasma.core.errors import CorruptFileError, DataError, StorageError
from chiasma.data.batch import Sample
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.data.signature import Target
from chiasma.experiment.calibration import Calibrator
from chiasma.experiment.saved import SavedModel, learnt_contents
from tests.experiment.small_model import classifier, make_saved, samples


def test_a_moved_folder_predicts_the_same_bits(tmp_path):
    saved = classifier(temperatures=(2.0,))
    saved.save(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    loaded = SavedModel.load(tmp_path / "there", device="cpu")
    assert np.array_equal(loaded.predict_proba(samples()), saved.predict_proba(samples()))
    assert loaded.card == {"run": "evolve-1"}
    assert loaded.labels == ("no", "yes")


def test_a_prediction_does_not_depend_on_its_neighbours():
    saved = classifier()
    together, alone = saved.predict_proba(samples(5)), saved.predict_proba(samples(5)[3:4])
    assert np.allclose(together[3], alone[0], atol=1e-6)


def test_saving_again_replaces_the_model(tmp_path):
    classifier(temperatures=(2.0,)).save(tmp_path)
    classifier(temperatures=(3.0,)).save(tmp_path)
    assert SavedModel.load(tmp_path, device="cpu").calibrator.temperatures == (3.0,)
    assert len(list(tmp_path.glob("step-*"))) == 1


def test_a_damaged_weight_is_found(tmp_path):
    classifier().save(tmp_path)
    (file,) = tmp_path.rglob("model.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises((CorruptFileError, StorageError)):
        SavedModel.load(tmp_path, device="cpu")


def test_an_empty_folder_holds_no_model(tmp_path):
    with pytest.raises(StorageError, match="holds no saved model"):
        SavedModel.load(tmp_path, device="cpu")


def test_probabilities_use_the_temperature():
    cool, hot = classifier(temperatures=(1.0,)), classifier(temperatures=(10.0,))
    assert np.all(hot.predict_proba(samples()).max(1) <= cool.predict_proba(samples()).max(1))


@pytest.mark.parametrize(("threshold", "said"), [(0.999, "no"), (0.001, "yes")])
def test_predictions_use_the_threshold_of_select(threshold, said):
    assert classifier(thresholds=(threshold,)).predict(samples()) == [said] * 3


def test_a_regression_predicts_in_the_units_of_the_data():
    target = Target(task="regression", labels=("price",))
    scale = {"target_mean": (100.0,), "target_deviation": (10.0,)}
    saved = make_saved(target, Calibrator(task="regression"), **scale)
    raw = saved.logits(samples())
    assert np.allclose(saved.predict(samples()), raw[:, 0] * 10 + 100)


def test_labels_that_are_on_are_predicted_together():
    target = Target(task="multilabel", labels=("a", "b"))
    saved = make_saved(target, Calibrator(task="multilabel"))
    assert saved.decide(np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])) == [("a", "b"), ("b",), ()]


def test_a_sample_that_cannot_be_read_is_named():
    with pytest.raises(DataError, match="Sample 'x'"):
        classifier().predict([Sample("x", {"text": np.zeros(3)})])


def test_loading_leaves_the_weights_bit_for_bit(tmp_path: Path):
    saved = classifier()
    saved.save(tmp_path)
    loaded = SavedModel.load(tmp_path, device="cpu").model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in saved.model.state_dict().items())


def test_a_model_recognises_what_it_has_learnt_from_in_another_file(tmp_path):
    rows = [{"id": k, "text": f"row number {k}", "label": "ab"[k % 2]} for k in range(60)]

    def dataset(name, some, **settings):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
        return prepare(DataSpec(source=str(tmp_path / name), **settings), seed=0, cache=tmp_path / "cache")[0]

    first = dataset("first.jsonl", rows[:40], test_fraction=0.2)
    saved = replace(classifier(), learnt=learnt_contents(first))
    saved.save(tmp_path / "model")
    loaded = SavedModel.load(tmp_path / "model", device="cpu")
    grown = dataset("grown.jsonl", [*rows[40:], *rows[:40]])
    every = np.arange(60)
    known = {grown.ids([row])[0] for row in every[loaded.learnt_from(grown, every)]}
    seen = np.concatenate([first.rows(split) for split in ("train", "steer", "select")])
    assert known == set(first.ids(seen))
