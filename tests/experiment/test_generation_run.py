"""Texts from the table to what is written: trained, measured, resumed, and asked."""

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import ConfigError
from chiasma.experiment.beginning import prepare_data
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.evaluate_run import evaluate
from chiasma.experiment.predict import predict_manifest, predict_one
from chiasma.experiment.predicted_table import write_predictions
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.train_run import train
from chiasma.model.generation import Decoding
from chiasma.train.trainer import Trainer
from tests.experiment.small_model import classifier

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with 240 pictures of one colour, each with a sentence about it."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    lines = ["id,img,caption"]
    for number in range(240):
        colour, bright = list(COLOURS)[number % 3], number % 2
        shade = np.array(COLOURS[colour]) // (1 if bright else 3)
        pixels = np.clip(shade + rng.integers(0, 12, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number},{number}.png,{'a bright' if bright else 'this is a dark'} {colour} picture")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def settings(folder, **more):
    values = {
        "data.task": "generation",
        "data.columns.label": "caption",
        "data.near_duplicate_bits": None,
        "model.dim": 16,
        "model.encoders": {"image": {"kind": "pixels"}},
        "model.head": {"kind": "generation", "depth": 1, "heads": 2},
        "train.epochs": 10,
        "train.batch_size": 16,
        "train.evaluations": 2,
        "optim.lr": 0.01,
        "run.folder": str(folder / "runs"),
        "run.cache": str(folder / "cache"),
        "run.device": "cpu",
        "evaluate.resamples": 100,
        **more,
    }
    return load_config(data=str(folder / "rows.csv"), values=values)


@pytest.fixture(scope="module")
def result(folder):
    return train(settings(folder), console=SilentConsole())


@pytest.fixture
def saved(result):
    return SavedModel.load(result.model_path, device="cpu")


def test_texts_are_written_far_better_than_the_commonest_one(result):
    commonest, nearest, winner = result.results.arms
    assert (commonest.name, nearest.name) == ("commonest_text", "nearest_text")
    assert commonest.select["exact_match"] < 0.4 < 0.8 < winner.select["exact_match"]
    assert nearest.select["exact_match"] > 0.8
    assert winner.select["bleu_4"] > 0.8
    assert winner.select["token_log_loss"] < 0.5 < commonest.select["token_log_loss"]
    assert result.results.metric == "token_log_loss"


def test_a_picture_gets_its_sentence(folder, saved):
    assert predict_one(saved, image=folder / "0.png", text=None).prediction == "this is a dark red picture"
    saved.writing(Decoding(beams=3))
    answer = predict_one(saved, image=folder / "1.png", text=None)
    assert (answer.prediction, answer.scores) == ("a bright green picture", {})


def test_texts_are_cut_where_asked(folder, saved):
    saved.writing(Decoding(longest=4))
    assert len(predict_one(saved, image=folder / "0.png", text=None).words.split()) <= 3


def test_a_manifest_gets_a_sentence_a_row(folder, saved):
    (folder / "some.csv").write_text("id,img\nx,2.png\ny,gone.png\n")
    rows = predict_manifest(saved, folder / "some.csv", console=SilentConsole())
    lines = write_predictions(rows, saved, kind="csv", out=None).splitlines()
    assert lines[:2] == ["id,prediction,probability,error", "x,this is a dark blue picture,,"]
    assert lines[2].startswith("y,,,")


def test_the_saved_model_is_measured_as_it_was(folder, result):
    found = evaluate(result.model_path, None, split="select", console=SilentConsole(), config=settings(folder))
    for name, value in result.results.arms[-1].select.items():
        assert found.metrics[name].value == pytest.approx(value)


def test_accumulated_batches_learn_the_same(folder):
    dataset, _ = prepare_data(settings(folder), SilentConsole())
    short = {"train.epochs": 1, "train.evaluations": 1}
    rows = []
    for parts in (1, 4):
        design = settings(folder, **short, **{"train.accumulation": parts}).design(dataset.signature)
        rows.append(Trainer(design, dataset, device="cpu").fit().history[-1])
    # Micro-batches sum in another order, which a whole epoch magnifies.
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-3)
    assert rows[0]["token_log_loss"] == pytest.approx(rows[1]["token_log_loss"], rel=1e-2)


def test_a_model_that_writes_nothing_has_no_beams():
    with pytest.raises(ConfigError, match=r"are for a model that writes .* but this one is for classification"):
        classifier().writing(Decoding(beams=4))
