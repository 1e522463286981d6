"""The container holds what the commands need that its first lines show."""

import re
import tomllib
from pathlib import Path

from chiasma.experiment.compose import load_config

ROOT = Path(__file__).parents[1]
RECIPE = (ROOT / "Dockerfile").read_text()


def installed() -> set[str]:
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", RECIPE)
    return set(extras.split(","))


def test_what_is_installed_is_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert installed() <= declared.keys()
    assert "dev" not in installed()


def test_every_preset_that_it_names_can_run_there():
    presets = re.findall(r"--config (\w+)", RECIPE)
    assert "hateful_memes_ddp" in presets
    backbones = [
        encoder for name in presets for encoder in load_config(name).model.encoders.values() if encoder is not None
    ]
    assert any(encoder.kind == "pretrained" for encoder in backbones)
    assert "pretrained" in installed()
    assert all(not load_config(name).tracking.wandb.enabled or "tracking" in installed() for name in presets)
