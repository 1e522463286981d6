"""Several tasks from the table to the prediction: trained, killed, resumed, measured, and asked."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import ConfigError
from chiasma.experiment.beginning import check_can_run, prepare_data
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.evaluate_run import evaluate
from chiasma.experiment.predict import predict_manifest, predict_one, write_predictions
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.train_run import train
from chiasma.train.trainer import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with 240 grey pictures, of which a shade, its name and its brightness are to be told."""
    folder = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    lines = ["id,img,text,shade,brightness"]
    for number in range(240):
        level = int(rng.integers(20, 236))
        Image.fromarray(rng.integers(level - 20, level + 20, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        shade = "" if number % 6 == 0 else ("dark" if level < 128 else "light")
        lines.append(f"{number},{number}.png,picture {number % 7},{shade},{level / 255 if number % 4 else ''}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def settings(folder, **more):
    values = {
        "data.columns.label": ["shade", "brightness"],
        "data.near_duplicate_bits": None,
        "model.dim": 16,
        "model.encoders": {"image": {"kind": "pixels"}, "text": {"kind": "ngram", "buckets": 64}},
        "train.epochs": 12,
        "train.batch_size": 32,
        "train.evaluations": 4,
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


@pytest.fixture(scope="module")
def saved(result):
    return SavedModel.load(result.model_path, device="cpu")


def test_every_task_is_learned_far_better_than_the_commonest_answer(result):
    floor, winner = result.results.arms
    assert (floor.name, floor.select["brightness/r2"]) == ("majority", pytest.approx(0, abs=0.1))
    assert winner.select["shade/accuracy"] > 0.85 > floor.select["shade/accuracy"] + 0.2
    assert winner.select["brightness/r2"] > 0.6
    assert result.results.metric == "mean_score"
    assert any(note.startswith("On select: accuracy of shade ") for note in result.results.notes)


def test_what_the_model_is_unsure_of_was_learned_and_is_saved(saved):
    assert (saved.model.head.log_variances != 0).all()


def test_a_row_gets_a_prediction_of_each_task(folder, saved):
    answer = predict_one(saved, image=folder / "3.png", text="picture 3")
    assert list(answer.prediction) == ["shade", "brightness"]
    assert answer.scores["shade=dark"] + answer.scores["shade=light"] == pytest.approx(1)
    assert answer.scores["brightness"] == answer.prediction["brightness"]
    assert 0 < answer.prediction["brightness"] < 1


def test_predictions_have_a_column_for_each_task(folder, saved):
    (folder / "some.csv").write_text("id,img,text\nx,3.png,picture 3\ny,gone.png,picture 3\n")
    rows = predict_manifest(saved, folder / "some.csv", console=SilentConsole())
    written = list(csv.DictReader(io.StringIO(write_predictions(rows, saved, kind="csv", out=None))))
    assert written[0]["shade"] in ("dark", "light")
    assert float(written[0]["shade probability"]) > 0.5
    assert float(written[0]["brightness"]) == pytest.approx(float(written[0]["brightness"]))
    assert (written[1]["shade"], written[1]["brightness"]) == ("", "")
    assert "cannot be read" in written[1]["error"]


def test_the_saved_model_is_measured_as_it_was(folder, result):
    found = evaluate(result.model_path, None, split="select", console=SilentConsole(), config=settings(folder))
    winner = result.results.arms[-1]
    # Decisions have thresholds there; what is measured without them is the same.
    for metric in ("brightness/r2", "brightness/mae", "shade/auroc"):
        assert found.metrics[metric].value == pytest.approx(winner.select[metric])
    assert [row["label"] for row in found.per_label] == ["shade=dark", "shade=light", "brightness"]


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(folder, tmp_path):
    config = settings(folder, **{"train.epochs": 2})
    dataset, _ = prepare_data(config, SilentConsole())
    design = config.design(dataset.signature)
    whole = Trainer(design, dataset, device="cpu").fit().model.state_dict()
    first = Trainer(design, dataset, device="cpu", checkpoints=tmp_path)
    advance, taken = first._advance, []

    def stop_after_three():
        advance()
        taken.append(1)
        if len(taken) == 3:
            first.request_stop()

    first._advance = stop_after_three
    first.fit()
    again = Trainer(design, dataset, device="cpu", checkpoints=tmp_path).fit().model.state_dict()
    assert len(taken) == 3
    assert all((again[name] == value).all() for name, value in whole.items())
    assert (whole["head.log_variances"] != 0).all()


@pytest.mark.parametrize(
    ("change", "searched", "named"),
    [
        ({}, True, "A search or benchmark"),
        ({"train.balance": True}, False, r"train\.balance"),
        ({"controller": {"kind": "hypergradient"}}, False, "controller"),
    ],
)
def test_what_is_for_one_task_alone_is_refused_before_anything_is_spent(folder, change, searched, named):
    config = settings(folder, **change)
    dataset, _ = prepare_data(config, SilentConsole())
    with pytest.raises(ConfigError, match=f"^{named} is for classification, multilabel and regression, but"):
        check_can_run(config, dataset, searched=searched)
