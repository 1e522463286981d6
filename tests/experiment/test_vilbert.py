"""The ViLBERT presets with tiny weights: train on features and on pixels, then do without the published file."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from chiasma.cli.main import app
from chiasma.data.features import Features
from chiasma.experiment.compose import load_config
from chiasma.experiment.saved import SavedModel
from chiasma.model.fusion import ViLBERT
from chiasma.model.vilbert_weights import published_state
from tests.published import write_memes
from tests.published_vilbert import FEATURE_WIDTH, Layout, save_tiny_vilbert, tiny_vilbert_settings

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("vilbert")

REGIONS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("003")
    memes = write_memes(folder / "memes")
    names = [json.loads(line)["id"] for file in memes.glob("*.jsonl") for line in file.read_text().splitlines()]
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(len(names), REGIONS, FEATURE_WIDTH)).astype(np.float16)
    mask = np.arange(REGIONS) < rng.integers(2, REGIONS + 1, (len(names), 1))
    boxes = rng.random((len(names), REGIONS, 5)).astype(np.float32)
    Features(tuple(names), tokens, mask, boxes).save(folder / "image.safetensors")
    return folder


def arguments(place: Path, weights: Path, layout: Layout, **more) -> list[str]:
    values = {
        **tiny_vilbert_settings(weights, layout=layout),
        "model.head.hidden": 8,
        "optim.warmup_steps": 40,
        "train.epochs": 2,
        "train.batch_size": 8,
        "data.steer_fraction": 0.25,
        "run.folder": str(place / "runs"),
        "run.cache": str(place / "cache"),
        "run.device": "cpu",
        **more,
    }
    return [f"{path}={json.dumps(value)}" for path, value in values.items()]


def invoke(*given: str):
    return CliRunner().invoke(app, list(given))


def trained(place: Path, preset: str, weights: Path, layout: Layout, *features: str, **more) -> Path:
    """Train a preset from the command line and return the run's folder."""
    settings = arguments(place, weights, layout, **more)
    name = preset.replace("_", "-")
    result = invoke("train", str(place / "memes"), "--config", preset, "--name", name, *features, "--set", *settings)
    assert result.exit_code == 0, result.output
    assert "is a ViLBERT (weights" in result.output
    said = " ".join(result.output.split())
    assert re.search(r"warm-up lasts 40 steps, but the training has only (4|6), so the rate reaches 1[05]% of", said)
    return next(path for path in (place / "runs").iterdir() if f"train-{name}-2" in path.name)


def log_of(run: Path) -> str:
    return (run / "log.jsonl").read_text()


def test_the_community_preset_trains_on_features_and_needs_its_file_no_more(place):
    weights = save_tiny_vilbert(place / "community", layout="community")
    features = ("--features", f"image={place / 'image.safetensors'}")
    run = trained(place, "vilbert", weights, "community", *features)
    assert "175 tensors" in log_of(run)
    shutil.rmtree(weights)
    result = invoke("evaluate", str(run))
    assert result.exit_code == 0, result.output
    saved = SavedModel.load(run / "model", device="cpu")
    state = published_state(saved.model)
    assert state["bert.encoder.c_layer.1.biattention.query1.weight"].shape == (12, 12)
    fusion = saved.model.spec.fusion
    assert isinstance(fusion, ViLBERT)
    assert fusion.weights is not None
    assert len(str(fusion.weights.sha256)) == 64


def test_hateful_memes_trains_on_pixels_with_what_is_published_of_the_rest(place):
    weights = save_tiny_vilbert(place / "facebook", layout="facebook")
    cells = {"kind": "convolution", "widths": [4], "grid": 4}
    more = {"data.image_size": 16, "model.encoders.image.cells": cells}
    run = trained(place, "hateful_memes_vilbert", weights, "facebook", **more)
    assert "from scratch, because model.fusion.fresh_image=true: encoders.image." in log_of(run)
    # Two steps at a small rate: what was loaded is nearly what it was.
    state = torch.load(weights, weights_only=True)["bert.encoder.layer.3.output.dense.weight"]
    saved = SavedModel.load(run / "model", device="cpu").model.fusion
    torch.testing.assert_close(saved.text_layers[3].after.layers[2].weight, state, atol=1e-3, rtol=0)


@pytest.mark.parametrize("preset", ["vilbert", "vilbert_facebook", "vilbert_frcnn", "vilbert_vg"])
def test_without_features_the_presets_say_in_one_line_what_to_do(place, preset):
    result = invoke("train", str(place / "memes"), "--config", preset)
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "data.features: published ViLBERT weights read region features, not pixels: chiasma features DATA" in said
    assert "then --features image=image.safetensors" in said


def test_features_with_a_weights_file_that_is_not_there_say_so_before_anything_is_read(place):
    features = ("--features", f"image={place / 'image.safetensors'}")
    result = invoke("train", str(place / "memes"), "--config", "vilbert_facebook", *features)
    assert result.exit_code == 2
    assert "weights/vilbert_pretrained_cc.bin does not exist" in " ".join(result.output.split())


def test_the_published_layout_is_facebooks():
    config = load_config("vilbert_facebook")
    fusion = config.model.fusion
    assert isinstance(fusion, ViLBERT)
    assert (fusion.text.depth, fusion.text.dim, fusion.text.heads) == (12, 768, 12)
    assert (fusion.image.depth, fusion.image.dim, fusion.image.heads) == (6, 1024, 8)
    assert list(zip(fusion.text_joins, fusion.image_joins, strict=True)) == [(6 + place, place) for place in range(6)]
    assert (config.model.dim, fusion.heads, fusion.combine) == (1024, 8, "product")
    optim, loop = config.optim, config.train
    assert (optim.lr, loop.batch_size, optim.warmup_steps, optim.clip) == (5e-5, 32, 2000, 1.0)
    assert optim.algorithm.kind == "adamw"


@pytest.mark.parametrize(("preset", "most"), [("vilbert", None), ("vilbert_frcnn", 36), ("vilbert_vg", 100)])
def test_detectors_give_as_many_regions_as_the_document_says(preset, most):
    assert load_config(preset).model.encoders["image"].most == most
