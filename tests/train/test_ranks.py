"""Two processes that train together decide alike, and come to what one of them would come to."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.core.launch import launched_ranks
from chiasma.train.order import DataOrder, micro_batches
from chiasma.train.ranks import ALONE, rank_device
from chiasma.train.trainer import Trainer
from tests.train import ranks_program
from tests.train.ranks_program import Written, claims, design

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("ranks")

ROOT = Path(__file__).parents[2]
Seen = Mapping[str, Any]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two processes wrote, task by task, what they saw and made."""
    folder = tmp_path_factory.mktemp("together")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.ranks_program", str(folder)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    deadline = time.monotonic() + 300
    while None in [process.poll() for process in started]:
        # What one that failed has left waiting would wait for long.
        if any(process.poll() for process in started) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    codes = [process.poll() for process in started]
    for process in started:
        process.kill()
    errors = [process.communicate()[1][-2000:] for process in started]
    assert codes == [0, 0], "\n".join(errors)
    return folder


def seen_by_both(folder: Path, task: str) -> tuple[Seen, Seen]:
    """Return what each of the two saw in a task."""
    first, second = (json.loads((folder / task / f"{rank}.json").read_text()) for rank in range(2))
    return first, second


@pytest.fixture(scope="module")
def grown(folder: Path) -> tuple[Seen, Seen, Seen]:
    """Return what one process alone, and each of two, came to."""
    alone = json.loads(json.dumps(ranks_program.grown(folder, ALONE)))
    return alone, *seen_by_both(folder, "grown")


@pytest.mark.slow
def test_two_ranks_come_to_what_one_comes_to_with_both_parts_of_each_batch(grown: tuple[Seen, ...]):
    alone, first, _ = (each["written"] for each in grown)
    assert first["steps"] == alone["steps"] > 10
    assert first["members"] == alone["members"] == ["perceptron_9", "transformer_1"]
    for name, value in alone["weights"].items():
        np.testing.assert_allclose(first["weights"][name], value, atol=2e-5, err_msg=name)
    for row, other in zip(first["history"], alone["history"], strict=True):
        assert row == pytest.approx(other, abs=1e-4)


@pytest.mark.slow
def test_ranks_have_the_same_bits_after_each_birth_and_prune(grown: tuple[Seen, ...]):
    _, first, second = (each["guided"] for each in grown)
    assert len(first["hashes"]) >= 3
    assert first["hashes"] == second["hashes"]
    assert first["hash"] == second["hash"]
    assert first["history"] == second["history"]


@pytest.mark.slow
def test_the_outputs_on_steer_are_those_of_one_process_although_each_rank_computes_a_part(grown: tuple[Seen, ...]):
    alone, first, second = grown
    assert alone["rows"] % 2
    assert first["logits"] == second["logits"] == alone["logits"]


@pytest.mark.slow
def test_a_rank_that_is_told_to_stop_stops_both_and_both_continue_to_the_same_bits(folder: Path):
    first, second = seen_by_both(folder, "stopped")
    assert first["first"] == second["first"] == {"stopped": "interrupted", "steps": 6}
    assert first["parts"] == first["whole"]
    assert second["parts"]["hash"] == first["whole"]["hash"]
    assert first["whole"]["members"] == ["perceptron_9", "transformer_1"]


@pytest.mark.slow
def test_what_two_ranks_began_one_process_continues_with_a_warning(folder: Path):
    here = folder / "stopped"
    data, made = claims(here, ALONE), design(accumulation=2)
    written = Written(made.training.growth, data, seed=0)
    trainer = Trainer(made, data, device="cpu", callbacks=[written], checkpoints=here / "left")
    with pytest.warns(UserWarning, match="ranks 2 there, 1 here"):
        fit = trainer.fit()
    assert (fit.stopped, sorted(fit.model.spec.trunk.members)) == ("finished", ["perceptron_9", "transformer_1"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_of_the_group_outlives_it_and_can_abort_a_finished_process(folder: Path):
    for rank in range(2):
        names = json.loads((folder / f"threads-{rank}.json").read_text())
        assert "python" in names
        assert not [name for name in names if "gloo" in name or "tcpstore" in name]


@pytest.mark.slow
def test_what_differs_between_ranks_is_an_error_on_both_and_what_the_leader_says_is_done_by_both(folder: Path):
    for seen in seen_by_both(folder, "differing"):
        assert "RanksDifferError: All ranks must have the same parameters" in seen["edit"]
        assert seen["told"] == "enough"
        assert "NonFiniteError: Step 0: input 'image' of example" in seen["nan"]


def test_each_row_of_a_step_is_seen_by_one_rank_in_the_place_it_has_for_one_process():
    rows = np.arange(100, 131)
    slices = [part for rank in range(3) for part in micro_batches(rows, 2, rank=rank, ranks=3)]
    assert sorted(int(row) for part in slices for row in part.rows) == rows.tolist()
    for part in slices:
        np.testing.assert_array_equal(part.rows, rows[part.start : part.start + len(part.rows)])


def test_a_batch_without_a_row_for_each_rank_is_refused():
    order = DataOrder(np.arange(10), batch_size=4, seed=0)
    order.check_shares(1, ranks=3)
    with pytest.raises(ConfigError, match="A batch has 3 rows at least, too few for 2 micro-batches on 2 ranks"):
        order.check_shares(2, ranks=2)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert rank_device("auto", local_rank=0) == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="which has 1 GPUs"):
        rank_device("auto", local_rank=1)
    with pytest.raises(ConfigError, match=r"run.device=cuda:1 is one device"):
        rank_device("cuda:1", local_rank=0)
    assert rank_device("cpu", local_rank=1) == torch.device("cpu")


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert launched_ranks() == 1
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launched_ranks() == 4
