"""Faults of Ray workers. One Ray serves this folder's tests, as a cluster that was there before."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from chiasma.core.errors import ConfigError
from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.evaluate.executor import LocalExecutor
from chiasma.evaluate.ray_executor import RayExecutor, check_address
from chiasma.evaluate.tasks import Task
from chiasma.model.encoders import NGram, Pixels
from chiasma.model.fusion import Late
from chiasma.model.multimodal import ModelSpec
from chiasma.train.design import Design, LoopSpec, TrainingSpec

pytest.importorskip("ray", reason="ray is not installed: pip install 'chiasma[ray]'")
# One Ray serves all: that of one of the processes that run tests.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

HERE = Path(__file__).parent
DESIGN = Design(
    model=ModelSpec(dim=16, encoders={"image": Pixels(size=8), "text": NGram(buckets=64)}, fusion=Late()),
    training=TrainingSpec(loop=LoopSpec(epochs=2.0)),
)


def outcomes(executor, deadline=None):
    return {job.key: outcome for job, outcome, _ in executor.as_completed(deadline)}


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    """Whether a process runs; one that ended but was not yet reaped by the system does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def done(result):
    future = Future()
    future.set_result(result)
    return future


def warm(executor, job):
    executor.submit(job)
    assert len(outcomes(executor)) == 1


def test_a_worker_killed_during_a_job_is_replaced_and_the_job_is_retried_once_and_counted_once(
    ray_toy_executor, toy_job, tmp_path
):
    with ray_toy_executor() as executor:
        executor.submit(toy_job(f"once {tmp_path / 'started'}"))
        wait_for((tmp_path / "started").exists)
        (first,) = executor.worker_pids()
        os.kill(first, signal.SIGKILL)
        ((job, outcome, seconds),) = executor.as_completed()
        assert executor.worker_pids() != [first]
        assert executor.retries == 1
    assert job.attempt == 1
    assert isinstance(outcome, Scored)
    assert outcome.metrics["attempt"] == 2
    assert seconds > 0


def test_a_job_whose_workers_die_twice_has_failed_and_the_next_one_is_done(ray_toy_executor, toy_job):
    with ray_toy_executor() as executor:
        executor.submit(toy_job("crash"))
        executor.submit(toy_job("score"))
        found = outcomes(executor)
    assert isinstance(found["crash"], Failed)
    assert found["crash"].error.startswith("2 workers died on crash, the last one in process ")
    assert isinstance(found["score"], Scored)


def test_late_stopped_and_cancelled_jobs_end_with_their_worker(ray_toy_executor, toy_job):
    with ray_toy_executor(grace_seconds=0.3) as executor:
        warm(executor, toy_job("score"))
        for stop in (False, True):
            (worker,) = executor.worker_pids()
            started = time.monotonic()
            executor.submit(toy_job("sleep 30", time_limit_seconds=0.3))
            if stop:
                os.kill(worker, signal.SIGSTOP)
            late = outcomes(executor)["sleep 30"]
            assert time.monotonic() - started < 0.6 + 1.0
            assert isinstance(late, Rejected)
            assert late.stage == "deadline"
            assert late.reason.endswith("the limit is 0.3 s")
            warm(executor, toy_job("score again"))
            wait_for(lambda worker=worker: not alive(worker))
        (worker,) = executor.worker_pids()
        handle = executor.submit(toy_job("sleep 31"))
        time.sleep(0.2)
        executor.cancel(handle)
        executor.submit(toy_job("score"))
        assert list(outcomes(executor)) == ["score"]
        assert not alive(worker)
        assert executor.retries == 0


def test_a_worker_that_stands_still_beyond_its_lease_is_replaced_and_a_busy_one_is_not(
    ray_toy_executor, toy_job, tmp_path
):
    with ray_toy_executor(lease_seconds=3.5) as executor:
        executor.submit(toy_job("sleep 4.5"))
        assert isinstance(outcomes(executor)["sleep 4.5"], Scored)
        assert executor.retries == 0
        executor.submit(toy_job(f"once {tmp_path / 'begun'}"))
        wait_for((tmp_path / "begun").exists)
        os.kill(executor.worker_pids()[0], signal.SIGSTOP)
        (outcome,) = outcomes(executor).values()
        assert isinstance(outcome, Scored)
        assert executor.retries == 1


def test_an_answer_to_an_earlier_attempt_is_dropped(ray_toy_executor, toy_job):
    """As if a worker had been given a job anew while its first answer was on the way."""
    with ray_toy_executor() as executor:
        warm(executor, toy_job("score"))
        job = toy_job("sleep 0.5", attempt=4)
        stale = Scored(objectives={"error": 0.0}).to_dict()
        late = {"key": job.key, "attempt": 3, "outcome": stale, "seconds": 1.0, "leaving": False}
        executor.submit(job)
        (worker,) = executor._supervisor._workers
        worker._arrived(done(json.dumps(late).encode()))
        ((ended, outcome, _),) = executor.as_completed()
    assert ended == job
    assert outcome.objectives == {"error": 0.5}


def test_an_error_of_ours_is_failed_and_what_is_printed_goes_to_the_log(ray_toy_executor, toy_job, tmp_path):
    with ray_toy_executor() as executor:
        warm(executor, toy_job("noise"))
        (first,) = executor.worker_pids()
        executor.submit(toy_job("raise"))
        executor.submit(toy_job("score"))
        found = outcomes(executor)
        assert executor.worker_pids() != [first]
        assert executor.retries == 0
    assert found["raise"] == Failed(error="RuntimeError: the disk of this worker is broken")
    assert isinstance(found["score"], Scored)
    log = (tmp_path / "worker.log").read_text()
    assert "a print in the middle of the protocol" in log
    assert "Traceback" in log


def test_workers_that_do_not_see_the_run_folder_fail_the_jobs_and_say_why(ray_toy_executor, toy_job, tmp_path):
    log = tmp_path / "run" / "workers.log"
    with ray_toy_executor(log=log) as executor:
        # Moved away before a worker looks: as on a node that does not mount it.
        log.parent.rename(tmp_path / "elsewhere")
        executor.submit(toy_job("score"))
        outcome = outcomes(executor)["score"]
    assert isinstance(outcome, Failed)
    assert "Worker processes do not start" in outcome.error
    assert "must lie on storage that every node sees" in outcome.error


def test_ray_that_was_there_before_is_left_alone_and_our_workers_are_gone(ray_home, ray_toy_executor, toy_job):
    with ray_toy_executor(2) as executor:
        warm(executor, toy_job("score"))
        executor.submit(toy_job("sleep 30"))
        wait_for(lambda: len(executor.worker_pids()) == 2)
        pids = executor.worker_pids()
    assert not any(alive(pid) for pid in pids)
    assert ray_home.is_initialized()
    executor.close()
    with pytest.raises(ValueError, match="The executor is closed and takes no jobs, but was given 'score'"):
        executor.submit(toy_job("score"))


def test_scores_are_those_of_local_workers_bit_for_bit(ray_home, claims, tmp_path):
    task = Task(dataset=str(claims.folder), metric="accuracy")
    jobs = [task.job(f"job {seed}", DESIGN, seed=seed) for seed in range(2)]
    jobs.append(task.job("lost", DESIGN, seed=0).model_copy(update={"dataset": str(tmp_path / "nowhere")}))
    found = []
    for executor in (LocalExecutor(1), RayExecutor(1, log=tmp_path / "workers.log")):
        with executor:
            for job in jobs:
                executor.submit(job)
            found.append(outcomes(executor))
    here, there = found
    for job in jobs[:2]:
        assert isinstance(there[job.key], Scored)
        assert there[job.key].objectives == here[job.key].objectives
        same = set(here[job.key].metrics) - {"train_seconds"}
        assert {name: there[job.key].metrics[name] for name in same} == {
            name: here[job.key].metrics[name] for name in same
        }
    assert isinstance(there["lost"], Failed)
    assert f"{tmp_path / 'nowhere'} is not on node" in there["lost"].error
    assert "must lie on storage that every node sees" in there["lost"].error


def test_a_cluster_that_is_too_small_or_not_there_is_refused(ray_home):
    with pytest.raises(ConfigError, match=r"run\.workers: 3 need a processor each, but the Ray cluster has 2"):
        RayExecutor(3)
    with pytest.raises(ConfigError, match=r"run\.ray_address: this process is connected to .* and cannot also join"):
        RayExecutor(1, address="10.0.0.1:6379")


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:", ":6379"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match=f"must be auto or host:port of the cluster's head node, but got {address}"):
        check_address(address)


def test_an_address_at_which_nobody_answers_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ConfigError, match=f"no cluster answers at {address}"):
            check_address(address)
        assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("setting", ["workers", "threads"])
def test_numbers_below_one_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, but got 0"):
        RayExecutor(**{"workers": 1, setting: 0})


DRIVER = """
import signal, time
from conftest import TEXT_ONLY
from chiasma.evaluate.job import Job
from chiasma.evaluate.ray_executor import RayExecutor
# Whoever runs the tests in parallel may ignore interrupts, and a child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *_: print("own handler"))
executor = RayExecutor(1, program="toy_worker:prepare")
job = Job(key="score", design=TEXT_ONLY, dataset="nowhere", metric="accuracy")
executor.submit(job)
assert len(list(executor.as_completed())) == 1
signal.raise_signal(signal.SIGTERM)
executor.submit(job.model_copy(update={"key": "sleep 2"}))
time.sleep(0.3)
try:
    print("busy", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print(*[outcome.kind for _, outcome, _ in executor.as_completed()], executor.retries, flush=True)
executor.submit(job.model_copy(update={"key": "sleep 60"}))
time.sleep(60)
"""


def test_an_interrupt_in_the_terminal_does_not_reach_workers_but_the_death_of_the_driver_does():
    """Ray's own two agents outlive a killed Ray by about a minute, in which they look for it."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        start_new_session=True,
    )
    with driver:
        assert driver.stdout.readline() == "own handler\n"
        assert driver.stdout.readline() == "busy\n"
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.stdout.readline() == "scored 0\n"
        started = psutil.Process(driver.pid).children(recursive=True)
        pids = {process.pid: process.name() for process in started if not process.name().endswith("Agent")}
        assert any("TrialActor" in name for name in pids.values())
        driver.kill()
        driver.wait()
        wait_for(lambda: not any(alive(pid) for pid in pids), seconds=10.0)
