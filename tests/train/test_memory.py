"""The estimate of a training's memory, against trainings that were measured."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.train.design import Design
from chiasma.train.memory import TrainingMemory, device_memory, training_memory
from chiasma.train.trainer import Trainer

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("memory")

FACTOR = 1.2
"""By how much an estimate and a measured training may differ, either way."""

CASES: dict[str, dict[str, Any]] = {
    "bfloat16": {"precision": "bfloat16"},
    "deeper, recomputed": {"model.encoders.text.depth": 6, "training.loop.recompute": True},
    "accumulated and averaged": {"model.dim": 256, "training.loop.accumulation": 4, "training.loop.ema": 0.9},
    "attention that is not fused": {"model.fusion": {"kind": "early", "attention": {"kind": "graph"}}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return claims whose pictures and texts are long."""
    spec = DataSpec(rows=260, image_size=32, text_length=96)
    return prepare(spec, seed=0, cache=tmp_path_factory.mktemp("data"))[0]


def design(changes: dict[str, Any]) -> Design:
    base = Design.from_dict(
        {
            "model": {
                "dim": 128,
                "encoders": {"image": {"kind": "vit", "grid": 8}, "text": {"kind": "bert"}},
                "fusion": {"kind": "alternating"},
            },
            "training": {"loop": {"batch_size": 32, "epochs": 0.3, "evaluations": 1}},
        }
    )
    for path, value in changes.items():
        base = base if path == "precision" else replace_at(base, path, value)
    return base


def estimate(case: str, data: Dataset) -> TrainingMemory:
    changes = CASES[case]
    return training_memory(
        design(changes),
        data.signature,
        precision=changes.get("precision", "float32"),
        evaluated_rows=len(data.rows("steer")),
    )


@pytest.fixture(scope="module")
def measured(data: Dataset) -> dict[str, int]:
    """Return by how many bytes the memory of a process rose in each case."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("Only Linux says what memory a process had at most.")
    lines = [
        json.dumps({"design": design(changes).to_dict(), "precision": changes.get("precision", "float32")})
        for changes in CASES.values()
    ]
    # Every tensor in pages of its own, which go back at once when it dies.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.memory_of_trainings", str(data.folder)],
        input="\n".join(lines),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, map(int, done.stdout.split()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_near_what_a_training_takes(case: str, data: Dataset, measured: dict[str, int]):
    ratio = estimate(case, data).total / measured[case]
    assert 1 / FACTOR < ratio < FACTOR


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, whose allocator says what was taken")
@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_near_what_a_cuda_device_had_allocated(case: str, data: Dataset):
    large = {"model.dim": 512, **CASES[case]}
    precision = large.get("precision", "float32")
    training = design(large)
    # What libraries take for themselves at first, and keep, is no part of what a training takes.
    Trainer(training, data, device="cuda", precision=precision).fit()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    Trainer(training, data, device="cuda", precision=precision).fit()
    taken = torch.cuda.max_memory_allocated() - before
    rows = len(data.rows("steer"))
    guess = training_memory(training, data.signature, precision=precision, device="cuda", evaluated_rows=rows)
    assert 1 / FACTOR < guess.total / taken < FACTOR


def test_an_estimate_takes_no_memory_of_that_size_and_draws_no_random_numbers(data: Dataset):
    large = replace_at(design({}), "model.dim", 4096)
    state, before = torch.get_rng_state(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert training_memory(large, data.signature).total > 2**33
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_moments_and_copies_are_counted_exactly(data: Dataset):
    plain = training_memory(design({}), data.signature)
    model = design({}).model.build(data.signature)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert (plain.parameters, plain.weights, plain.optimiser) == (numbers, 4 * numbers, 8 * numbers)
    sgd = replace_at(design({}), "training.optim.algorithm", {"kind": "sgd"})
    assert training_memory(sgd, data.signature).optimiser == 4 * numbers
    averaged = replace_at(design({}), "training.loop.ema", 0.9)
    assert training_memory(averaged, data.signature).copies == plain.copies + 4 * numbers == 8 * numbers


def test_what_decides_on_nothing_keeps_no_best_weights(data: Dataset):
    loop = design({}).training.loop.to_dict() | {"restore_best": False, "train_on_steer": True}
    memory = training_memory(replace_at(design({}), "training.loop", loop), data.signature)
    assert (memory.copies, memory.evaluating) == (0, 0)


def test_recomputing_stores_one_input_a_block(data: Dataset):
    """And so the rise with depth is one sequence of float32 a block."""
    rows, length, dim = 32, 96, 128
    stored = [
        training_memory(
            design({"training.loop.recompute": True, "model.encoders.text.depth": depth}), data.signature
        ).stored["text"]
        for depth in (2, 6)
    ]
    assert stored[1] - stored[0] == 4 * rows * length * dim * 4


def test_the_host_has_what_is_free():
    assert 0 < device_memory(torch.device("cpu")) < 2**50
