"""A small prepared dataset, and designs that train on it in a second."""

from pathlib import Path

import pytest

from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import Design, LoopSpec, OptimSpec, TrainingSpec


@pytest.fixture(scope="session")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return some hundred pairs of digits and claims."""
    data, _ = prepare(DataSpec(rows=400), seed=0, cache=tmp_path_factory.mktemp("data"))
    return data


@pytest.fixture(scope="session")
def model() -> ModelSpec:
    """Return a small multimodal model with dropout."""
    return ModelSpec.from_dict(
        {
            "dim": 8,
            "encoders": {
                "image": {"kind": "convolution", "widths": (4, 8), "grid": 4, "pool": "flatten"},
                "text": {"kind": "bert", "depth": 1, "heads": 2, "dropout": 0.2},
            },
            "fusion": {"kind": "multiplicative"},
        }
    )


@pytest.fixture(scope="session")
def design(model: ModelSpec) -> Design:
    """Return a design of some thirty steps with everything that has state."""
    optim = OptimSpec.from_dict({"lr": 5e-3, "schedule": {"kind": "plateau", "patience": 1}, "warmup": 0.1})
    loop = LoopSpec(epochs=4, batch_size=32, accumulation=2, ema=0.9, evaluations=5)
    return Design(model=model, training=TrainingSpec(optim=optim, loop=loop))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder for checkpoints that does not exist yet."""
    return tmp_path / "checkpoints"
