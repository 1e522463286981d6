"""Real workers on real data; their faults are tested with cheaper ones in ``test_executor``."""

import os
import signal
import time

import psutil
import pytest

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.core.spec import replace_at
from chiasma.evaluate.executor import LocalExecutor
from chiasma.evaluate.tasks import Task
from chiasma.evaluate.trial import run_trial
from chiasma.model.encoders import Convolution, NGram, Pixels
from chiasma.model.fusion import Late
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import Design, LoopSpec, TrainingSpec

DESIGN = Design(
    model=ModelSpec(dim=16, encoders={"image": Pixels(size=8), "text": NGram(buckets=64)}, fusion=Late()),
    training=TrainingSpec(loop=LoopSpec(epochs=2.0)),
)
ENDLESS = replace_at(DESIGN, "training.loop.epochs", 1e6)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Two warm workers for all tests here; each test leaves them idle."""
    with LocalExecutor(2, log=tmp_path_factory.mktemp("log") / "workers.log") as executor:
        yield executor


@pytest.fixture
def task(claims):
    return Task(dataset=str(claims.folder), metric="accuracy")


def outcomes(executor, *jobs):
    for job in jobs:
        executor.submit(job)
    return {job.key: outcome for job, outcome, _ in executor.as_completed(time.monotonic() + 120)}


def wait_until_a_worker_trains(executor):
    """Wait until some worker has used a third of a second of processor time since now."""
    processes = {pid: psutil.Process(pid) for pid in executor.worker_pids()}
    before = {pid: sum(process.cpu_times()[:2]) for pid, process in processes.items()}
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for pid, process in processes.items():
            if sum(process.cpu_times()[:2]) > before[pid] + 0.33:
                return pid
        time.sleep(0.02)
    raise AssertionError("no worker trained")


def wait_until_idle(executor):
    """Wait until no worker uses the processor: all have started and none trains."""
    end = time.monotonic() + 60
    spent = -1.0
    while time.monotonic() < end:
        now = sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in executor.worker_pids())
        if now - spent < 0.02 and len(executor.worker_pids()) == 2:
            return
        spent = now
        time.sleep(0.5)
    raise AssertionError("the workers never came to rest")


@pytest.mark.slow
def test_scores_do_not_depend_on_the_process_or_the_number_of_workers(workers, task, claims):
    jobs = [task.job(f"job {seed}", DESIGN, seed=seed) for seed in range(3)]
    found = outcomes(workers, *jobs)
    for job in jobs:
        here = run_trial(job, claims)
        there = found[job.key]
        assert isinstance(there, Scored)
        assert there.objectives == here.objectives
        assert there.metrics["log_loss"] == here.metrics["log_loss"]


@pytest.mark.slow
def test_faults_of_candidates_and_of_ours_are_told_apart(workers, task):
    unbuildable = Design(model=ModelSpec(encoders={"text": Convolution()}))
    diverging = replace_at(replace_at(DESIGN, "training.optim.lr", 1e30), "training.optim.clip", None)
    found = outcomes(
        workers,
        task.job("unbuildable", unbuildable, seed=0),
        task.job("diverging", replace_at(diverging, "training.optim.warmup", 0.0), seed=0),
        task.job("lost", DESIGN, seed=0).model_copy(update={"dataset": "no such folder"}),
        task.job("slow", ENDLESS, seed=0).model_copy(update={"time_limit_seconds": 8.0}),
        task.job("sound", DESIGN, seed=0),
    )
    assert {key: outcome.kind for key, outcome in found.items()} == {
        "unbuildable": "rejected",
        "diverging": "rejected",
        "lost": "failed",
        "slow": "rejected",
        "sound": "scored",
    }
    stages = {key: outcome.stage for key, outcome in found.items() if isinstance(outcome, Rejected)}
    assert stages == {"unbuildable": "build", "diverging": "train", "slow": "deadline"}
    assert isinstance(found["lost"], Failed)
    assert "no such folder" in found["lost"].error
    assert workers.retries == 0


@pytest.mark.slow
def test_a_worker_killed_while_it_trains_is_replaced_and_the_score_is_the_same(workers, task, claims):
    design = replace_at(DESIGN, "training.loop.epochs", 150.0)
    job = task.job("killed", design, seed=5)
    before = workers.retries
    wait_until_idle(workers)
    workers.submit(job)
    os.kill(wait_until_a_worker_trains(workers), signal.SIGKILL)
    ((ended, outcome, _),) = workers.as_completed(time.monotonic() + 120)
    assert ended == job
    assert workers.retries == before + 1
    assert outcome.objectives == run_trial(job, claims).objectives
