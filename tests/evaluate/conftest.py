"""Designs, jobs and executors for tests of evaluation."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.evaluate.executor import LocalExecutor
from chiasma.evaluate.jail import Jail
from chiasma.evaluate.job import Job
from chiasma.evaluate.ray_executor import RayExecutor, import_ray, join_ray
from chiasma.model.encoders import NGram, Pixels
from chiasma.model.fusion import Generated
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import Design, LoopSpec, TrainingSpec

TOY = (sys.executable, str(Path(__file__).with_name("toy_worker.py")))
TEXT_ONLY = Design(model=ModelSpec(dim=8, encoders={"text": NGram(orders=1, buckets=16)}))


@pytest.fixture
def toy_job() -> Callable[..., Job]:
    def make(key: str, **settings: object) -> Job:
        return Job(key=key, design=TEXT_ONLY, dataset="nowhere", metric="accuracy", **settings)

    return make


@pytest.fixture
def toy_executor(tmp_path: Path) -> Callable[..., LocalExecutor]:
    def make(workers: int = 1, **settings: object) -> LocalExecutor:
        return LocalExecutor(workers, **{"command": TOY, "log": tmp_path / "worker.log", **settings})

    return make


@pytest.fixture(scope="session")
def ray_home() -> Iterator[Any]:
    """Start one Ray for all tests of this folder, with room for two workers, and return the module."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'chiasma[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        leave = join_ray(None, workers=2)
    yield import_ray()
    leave()


@pytest.fixture
def ray_toy_executor(ray_home: Any, tmp_path: Path) -> Callable[..., RayExecutor]:
    def make(workers: int = 1, **settings: object) -> RayExecutor:
        return RayExecutor(workers, **{"program": "toy_worker:prepare", "log": tmp_path / "worker.log", **settings})

    return make


@pytest.fixture(scope="session")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a small part of the built-in data."""
    return prepare(DataSpec(rows=400), seed=0, cache=tmp_path_factory.mktemp("cache"))[0]


@pytest.fixture(scope="session")
def jail() -> Iterator[Jail]:
    """Return a warm jail for all tests of this folder; those on a machine without its guarantees are skipped."""
    with Jail() as found:
        if not found.level.is_full:
            pytest.skip(f"This machine keeps the jail only {found.level.words}.")
        yield found


@pytest.fixture(scope="session")
def small_claims(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return so few rows that a trial takes a tenth of a second."""
    return prepare(DataSpec(rows=200), seed=0, cache=tmp_path_factory.mktemp("cache"))[0]


@pytest.fixture
def generated_job(small_claims: Dataset) -> Callable[..., Job]:
    """Return a function that makes a job whose fusion is some source."""

    def make(source: str, **settings: Any) -> Job:
        encoders = {"image": Pixels(size=8), "text": NGram(buckets=64)}
        model = ModelSpec(dim=16, encoders=encoders, fusion=Generated(source=source))
        training = TrainingSpec(loop=LoopSpec(epochs=1.0, evaluations=1))
        fields = {"seed": 1, "metric": "accuracy", **settings}
        return Job(key="one", design=Design(model=model, training=training), dataset=str(small_claims.folder), **fields)

    return make
