"""Document 000's preset with tiny weights in the same layouts: train, evaluate, resume, predict; what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from chiasma.adapt.callbacks import callbacks_of
from chiasma.cli.main import app
from chiasma.core.errors import ConfigError, DataError
from chiasma.data.prepare import prepare
from chiasma.experiment.backbones import with_backbones
from chiasma.experiment.beginning import check_can_run
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.mechanism import around_slot
from chiasma.experiment.saved import SavedModel
from chiasma.model.multimodal import ModelSpec
from chiasma.store.checkpoint import load_newest
from chiasma.train.memory import training_memory
from chiasma.train.optim import changeable
from chiasma.train.progress import StepTaken
from chiasma.train.trainer import Trainer
from tests.published import save_backbone, write_memes

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("backbones")


class Listening(SilentConsole):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("000")
    save_backbone("clip", folder / "clip")
    save_backbone("distilbert", folder / "distilbert")
    save_backbone("bert", folder / "bert")
    write_memes(folder / "hateful_memes")
    return folder


def small(place: Path, **more) -> dict:
    return {
        "model.dim": 16,
        "model.encoders.image.name": str(place / "clip"),
        "model.encoders.text.name": str(place / "distilbert"),
        "data.text_length": 16,
        "data.steer_fraction": 0.25,
        "train.epochs": 4,
        "train.batch_size": 8,
        "run.folder": str(place / "runs"),
        "run.cache": str(place / "cache"),
        "run.device": "cpu",
        **more,
    }


def preset(place: Path, **more):
    return load_config("hateful_memes", data=str(place / "hateful_memes"), values=small(place, **more))


def words(place: Path, **more) -> list[str]:
    return [f"{path}={json.dumps(value)}" for path, value in small(place, **more).items()]


def invoke(*given: str):
    return CliRunner().invoke(app, list(given))


GROWING = {
    "growth.births": "random",
    "growth.learned": 0.0,
    "growth.probation": 1,
    "growth.last_birth": 1.0,
    "train.patience": None,
    "train.restore_best": False,
}


@pytest.fixture(scope="module")
def trained(place) -> Path:
    """Train the preset from the command line, with births, and return the run's folder."""
    data = str(place / "hateful_memes")
    result = invoke("train", data, "--config", "hateful_memes", "--name", "tiny", "--set", *words(place, **GROWING))
    assert result.exit_code == 0, result.output
    assert "because the text encoder is that model" in result.output
    return next(path for path in (place / "runs").iterdir() if "tiny" in path.name)


def test_the_preset_trains_and_its_trunk_grows(trained):
    design = json.loads((trained / "results.json").read_text())["design"]["model"]
    assert set(design["trunk"]["members"]) > {"perceptron_1", "transformer_1"}
    assert design["encoders"]["image"]["backbone"]["architecture"]["model_type"] == "clip_vision_model"
    assert design["encoders"]["text"]["freeze"] == "last_n"


def test_a_run_knows_what_it_was_made_of(trained, place):
    config = json.loads((trained / "config.json").read_text())
    assert config["data"]["tokenizer"]["name"] == str(place / "distilbert")
    assert len(config["data"]["tokenizer"]["sha256"]) == 64
    assert len(config["model"]["encoders"]["image"]["backbone"]["weights"]) == 64


def test_the_grown_model_is_evaluated_and_predicts(trained, place):
    result = invoke("evaluate", str(trained))
    assert result.exit_code == 0, result.output
    assert "auroc" in result.output
    shown = invoke("show", str(trained))
    assert shown.exit_code == 0, shown.output
    assert "clip_vision_model (weights " in shown.output
    assert "max_position_embeddings" not in shown.output
    image = next((place / "hateful_memes/img").iterdir())
    result = invoke("predict", str(trained), "--image", str(image), "--text", "look how many people")
    assert result.exit_code == 0, result.output
    saved = SavedModel.load(trained / "model", device="cpu")
    assert set(saved.model.spec.trunk.members) > {"perceptron_1", "transformer_1"}


def test_the_log_says_what_was_loaded_and_what_was_not_needed(trained):
    lines = [json.loads(line)["message"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert any("distilbert: " in line and "not needed: vocab_" in line for line in lines), lines


def test_the_report_names_a_backbone_without_all_that_it_is(trained):
    report = (trained / "report.html").read_text()
    assert "backbone distilbert (weights " in report
    assert "max position embeddings" not in report


def trainer_of(config, dataset, **more) -> Trainer:
    design = config.design(dataset.signature)
    callbacks = callbacks_of(design, dataset, seed=0)
    return Trainer(design, dataset, seed=0, device="cpu", callbacks=callbacks, metric="auroc", **more)


@pytest.fixture(scope="module")
def ready(place):
    config = with_backbones(preset(place, **GROWING, **{"train.ema": 0.9}), SilentConsole())
    dataset, _ = prepare(config.data, seed=0, cache=place / "cache")
    return config, dataset


class StopsAt:
    """Asks the trainer to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.taken = steps, 0
        self.trainer: Trainer | None = None

    def start(self, total_steps: int, *, done: int, history) -> None:
        self.taken = done

    def advance(self, taken: StepTaken) -> None:
        self.taken += 1
        if self.taken == self.steps:
            assert self.trainer is not None
            self.trainer.request_stop()

    def evaluated(self, row, *, metric: str) -> None: ...

    def edited(self, reason: str, *, step: int) -> None: ...

    def finish(self, stopped: str) -> None: ...


def test_a_resumed_training_is_the_same_to_the_last_bit_and_needs_no_folder(ready, trained, place, tmp_path):
    config, dataset = ready
    whole = trainer_of(config, dataset).fit()
    stops = StopsAt(7)
    stops.trainer = trainer_of(config, dataset, checkpoints=tmp_path / "kept", progress=stops)
    assert stops.trainer.fit().stopped == "interrupted"
    hidden = place / "elsewhere"
    hidden.mkdir()
    for name in ("clip", "distilbert"):
        shutil.move(place / name, hidden / name)
    try:
        resumed = trainer_of(config, dataset, checkpoints=tmp_path / "kept").fit()
        SavedModel.load(trained / "model", device="cpu")
        again = invoke("evaluate", str(trained), "--on", "select")
        assert again.exit_code == 0, again.output
        with pytest.raises(ConfigError, match=r"The folder .*clip does not exist"):
            trainer_of(config, dataset).fit()
        dataset_again, _ = prepare(config.data, seed=0, cache=place / "cache")
    finally:
        for name in ("clip", "distilbert"):
            shutil.move(hidden / name, place / name)
    assert dataset_again.key == dataset.key
    assert resumed.history == whole.history
    after, expected = resumed.model.state_dict(), whole.model.state_dict()
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], value) for name, value in expected.items())


def test_frozen_weights_are_the_published_ones_after_training(ready, place):
    config, dataset = ready
    fresh = trainer_of(config, dataset).fit().model
    import transformers

    published = transformers.DistilBertModel.from_pretrained(place / "distilbert").state_dict()
    ours = fresh.encoders["text"].backbone.state_dict()
    same = {name for name, value in published.items() if torch.equal(ours[name], value)}
    assert {name for name in published if "layer.0." in name or "embeddings" in name} <= same
    assert not any("layer.1." in name or "layer.2." in name for name in same if "weight" in name)


def test_the_best_weights_are_restored_whole_and_frozen_ones_are_kept_once(ready, place, tmp_path):
    config, dataset = ready
    first = config.train.model_copy(update={"restore_best": True})
    config = config.model_copy(update={"train": first, "optim": config.optim.model_copy(update={"lr": 0.05})})
    fit = trainer_of(config, dataset, checkpoints=tmp_path / "kept").fit()
    checkpoint = load_newest(tmp_path / "kept")
    last, best = checkpoint.tensors("model"), checkpoint.tensors("best")
    frozen = {name for name, parameter in fit.model.named_parameters() if not parameter.requires_grad}
    assert any("embeddings" in name for name in frozen)
    assert not frozen & best.keys()
    after = fit.model.state_dict()
    assert best.keys() == after.keys() - frozen
    assert all(torch.equal(after[name], value) for name, value in best.items())
    assert all(torch.equal(after[name], last[name]) for name in frozen)
    # Also where the best moment was before the trunk's last change, so that the model is built anew.
    assert fit.best["step"] < fit.history[-1]["step"]
    assert fit.model.trunk.spec != first_trunk(checkpoint)


def test_copies_of_weights_that_do_not_learn_are_not_estimated_because_none_are_made(ready):
    config, dataset = ready
    config = config.model_copy(update={"train": config.train.model_copy(update={"ema": None})})
    design = config.design(dataset.signature)
    memory = training_memory(design, dataset.signature)
    model = design.model.build(dataset.signature)
    copied = sum(value.nbytes for value in changeable(model).values())
    assert copied <= memory.copies < 1.05 * copied < 0.8 * memory.weights


def first_trunk(checkpoint):
    return ModelSpec.from_dict(checkpoint.documents["design"]["model"]).trunk


def test_a_training_may_begin_with_the_weights_of_another(ready, tmp_path):
    config, dataset = ready
    first = trainer_of(config, dataset, checkpoints=tmp_path / "kept")
    first.fit()
    kept = load_newest(tmp_path / "kept").tensors("model")
    later = trainer_of(config, dataset, start_from=tmp_path / "kept")
    later._begin()
    begun = later._learner.model.state_dict()
    assert torch.equal(begun["encoders.text.project.weight"], kept["encoders.text.project.weight"])


def test_settings_of_the_data_follow_from_the_encoders_and_are_said(place):
    console = Listening()
    config = with_backbones(preset(place), console)
    assert config.data.image_processor.name == str(place / "clip")
    assert [line for line in console.said if line.startswith("data.")] == [
        f"data.image_processor={place / 'clip'}, because the image encoder is that model",
        f"data.tokenizer={place / 'distilbert'}, because the text encoder is that model",
    ]
    assert with_backbones(config, Listening()) == config


def test_a_tokenizer_that_the_user_names_is_kept_and_refused_where_it_does_not_fit(place):
    config = with_backbones(preset(place, **{"data.tokenizer": str(place / "clip")}), SilentConsole())
    assert config.data.tokenizer.name == str(place / "clip")
    dataset, _ = prepare(config.data, seed=0, cache=place / "cache")
    with pytest.raises(ConfigError, match=r"were prepared with another tokenizer"):
        check_can_run(config, dataset)


def test_a_size_that_the_user_names_is_refused_with_what_to_leave_out(place):
    config = with_backbones(preset(place, **{"data.image_size": 24}), SilentConsole())
    dataset, _ = prepare(config.data, seed=0, cache=place / "cache")
    with pytest.raises(ConfigError, match=r"data\.image_processor=.*, and no data\.image_size"):
        check_can_run(config, dataset)


def test_the_preset_without_data_says_where_to_put_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"name the folder that holds it as DATA"):
        with_backbones(load_config("hateful_memes"), SilentConsole())


def test_a_folder_beside_the_working_directory_is_known_by_its_whole_path(place, monkeypatch):
    monkeypatch.chdir(place)
    config = load_config("hateful_memes", values={"model.encoders.text.name": "distilbert", "data.tokenizer": "./bert"})
    assert config.model.encoders["text"].name == str(place / "distilbert")
    assert config.data.tokenizer.name == str(place / "bert")
    assert config.model.encoders["image"].name == "openai/clip-vit-base-patch32"


def test_attention_is_set_in_the_fusion_and_not_sought_in_a_pretrained_encoder(place, ready):
    mean = with_backbones(preset(place, **{"model.fusion.attention": {"kind": "mean"}}), SilentConsole())
    _, dataset = ready
    assert mean.design(dataset.signature).model.fusion.attention.kind == "mean"
    around = around_slot(preset(place, **{"search.slot": "fusion.attention"}), dataset.signature)
    assert around.model.fusion.kind == "cross_attention"
    with pytest.raises(ConfigError, match=r"model.encoders.text is 'pretrained', which has no attention"):
        around_slot(preset(place, **{"search.slot": "text.attention"}), dataset.signature)


@pytest.mark.parametrize("epochs", [3, 10, 50])
def test_the_preset_evaluates_once_an_epoch_whatever_their_number(epochs: int):
    config = load_config("hateful_memes", overrides=[f"train.epochs={epochs}"])
    assert config.train.evaluations_in(1.0) == epochs
    assert load_config("hateful_memes_ddp").train.evaluations == "every_epoch"


def test_the_preset_for_two_devices_sees_as_many_examples_on_each():
    one, two = load_config("hateful_memes"), load_config("hateful_memes_ddp")
    assert two.train.batch_size == 2 * one.train.batch_size == 64
    assert two.model_copy(update={"train": one.train}) == one


def test_rarer_classes_are_repeated_until_all_are_as_many(ready):
    from chiasma.train.steering import learnt_rows

    config, dataset = ready
    rows = learnt_rows(dataset, config.train)
    labels = dataset.labels(rows).numpy()
    assert (labels == 0).sum() == (labels == 1).sum() == dataset.class_counts.max()
    assert set(rows) == set(dataset.rows("train"))
