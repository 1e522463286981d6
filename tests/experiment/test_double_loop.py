"""Document 004's network: its size, its memory, and that it trains."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from chiasma.cli.main import app
from chiasma.experiment.compose import load_config
from chiasma.experiment.memory import gib, largest_signature, memory_lines, memory_warning
from chiasma.model.cost import parameters
from chiasma.model.multimodal import MultimodalModel
from chiasma.train.design import Design
from chiasma.train.memory import TrainingMemory, training_memory

GIB = 2**30
TINY = (
    "data.rows=200",
    "data.image_size=28",
    "data.text_length=12",
    "data.vocabulary=200",
    "model.dim=16",
    "model.encoders.image.depth=1",
    "model.encoders.text.depth=1",
    "model.head.hidden=16",
    "train.epochs=1",
    "train.evaluations=2",
)
SHALLOW = tuple(f"model.{part}.depth=2" for part in ("encoders.image", "encoders.text", "fusion"))
FUSED = {"double_loop": ("model.fusion.depth=2",), "double_loop_late": ("model.fusion.hidden=16",)}


def shape(preset: str) -> tuple[Design, MultimodalModel]:
    """Return the design of a preset over the largest data it allows, and the model without contents."""
    config = load_config(preset)
    signature = largest_signature(config)
    assert signature is not None
    with torch.device("meta"):
        return config.design(signature), config.design(signature).model.build(signature)


@functools.cache
def estimate(preset: str, *settings: str) -> TrainingMemory:
    config = load_config(preset, overrides=settings)
    signature = largest_signature(config)
    assert signature is not None
    return training_memory(config.design(signature), signature, precision=config.run.precision)


@pytest.mark.parametrize(("preset", "millions"), [("double_loop", 118.1), ("double_loop_late", 93.1)])
def test_the_presets_have_the_documents_layout_and_size(preset: str, millions: float):
    design, model = shape(preset)
    assert (model.spec.dim, design.training.loop.batch_size, design.training.loop.accumulation) == (512, 32, 8)
    assert design.training.loop.recompute
    assert model.encoders["image"].positions.table.shape == (197, 512)
    assert model.encoders["text"].positions.table.shape == (512, 512)
    assert round(parameters(model) / 1e6, 1) == millions
    text = (Path(load_config.__code__.co_filename).parents[1] / "presets" / f"{preset}.yaml").read_text()
    assert f"{millions:.1f} million parameters" in text


def test_a_training_of_the_larger_preset_fits_into_twelve_gigabytes():
    memory = estimate("double_loop")
    assert 4 * 4 * memory.parameters < memory.total < 12e9


def test_recomputing_saves_what_it_is_for():
    with_it = estimate("double_loop", *SHALLOW)
    without = estimate("double_loop", *SHALLOW, "train.recompute=false")
    assert sum(with_it.stored.values()) < 0.2 * sum(without.stored.values())
    assert with_it.learning < without.learning


def test_a_preset_chooses_the_precision_and_the_user_overrules_it():
    assert load_config("double_loop").run.precision == "bfloat16"
    assert load_config("double_loop", overrides=["run.precision=float32"]).run.precision == "float32"


def test_settings_that_leave_sizes_to_the_data_tell_no_memory():
    assert memory_lines(load_config()) == []
    assert memory_lines(load_config(values={"data.image_size": 16, "data.text_length": 8})) != []
    assert memory_lines(load_config("text_only", values={"data.text_length": 8})) != []


def test_a_user_sees_what_a_training_takes_before_it_starts():
    result = CliRunner().invoke(app, ["config", "show", "--config", "double_loop", "--set", *SHALLOW])
    assert result.exit_code == 0
    first, second, third, fourth = (line for line in result.stdout.splitlines() if line.startswith("# "))
    assert first.startswith(
        f"# training takes about {gib(estimate('double_loop', *SHALLOW).total)} of memory: weights "
    )
    assert "million parameters, for images of 224 x 224 pixels and texts of 512 out of 30522" in second
    assert "kept for the backward pass: image " in third
    assert "while it is evaluated" in fourth


def test_a_training_that_takes_little_is_started_without_a_word_and_a_large_one_with_a_warning():
    design, _ = shape("double_loop")
    memory = estimate("double_loop", *SHALLOW)
    assert memory_warning(memory, 3 * memory.total, design=design, name="cuda") is None
    said = memory_warning(memory, 1.5 * memory.total, design=design, name="cuda")
    assert said is not None
    assert said.startswith(f"training takes about {gib(memory.total)} of the {gib(1.5 * memory.total)} of memory")
    warned = memory_warning(memory, memory.total - 1, design=design, name="cuda")
    assert warned is not None
    assert warned.startswith("warning: training takes about")
    assert "data.text_length" in warned
    assert "train.accumulation" not in warned
    small = replace(memory, evaluating=0)
    warned = memory_warning(small, small.total - 1, design=design, name="cuda")
    assert warned is not None
    assert "train.accumulation=16" in warned
    assert "train.recompute=true" not in warned


def train(
    preset: str, places: Path, monkeypatch: pytest.MonkeyPatch, *settings: str, data: str | None = None
) -> Result:
    monkeypatch.setenv("CHIASMA_RUNS", str(places))
    words = ["train", *([] if data is None else [data]), "--config", preset, "--device", "cpu"]
    return CliRunner().invoke(app, [*words, "--set", *TINY, *FUSED[preset], *settings])


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "precision"), [("double_loop", "bfloat16"), ("double_loop_late", "float16")])
def test_a_preset_trains_with_tiny_weights_in_the_same_layout(
    preset: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    result = train(preset, tmp_path, monkeypatch, f"run.precision={precision}")
    assert result.exit_code == 0, result.output
    (run,) = tmp_path.iterdir()
    config = json.loads((run / "config.json").read_text())
    assert (config["run"]["precision"], config["train"]["recompute"], config["train"]["accumulation"]) == (
        precision,
        True,
        8,
    )
    results = json.loads((run / "results.json").read_text())
    assert results["budget"]["steps"] >= 3
    assert results["design"]["model"]["encoders"]["image"]["grid"] == 14
    assert 0 <= results["arms"][0]["select"]["accuracy"] <= 1


@pytest.mark.slow
def test_the_preset_trains_on_pictures_and_questions(third_party, tmp_path: Path, monkeypatch):
    manifest = str(third_party("easy_vqa") / "manifest.jsonl")
    result = train("double_loop", tmp_path, monkeypatch, "train.epochs=0.5", data=manifest)
    assert result.exit_code == 0, result.output
