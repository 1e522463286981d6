import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.evaluate.executor import LocalExecutor

HERE = Path(__file__).parent


def outcomes(executor, deadline=None):
    return {job.key: outcome for job, outcome, _ in executor.as_completed(deadline)}


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def alive(pid):
    """Whether a process runs; one that ended but was not yet reaped by the system does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def warm(executor, job):
    executor.submit(job)
    assert len(outcomes(executor)) == 1


def test_every_submitted_job_comes_back_once_with_its_outcome(toy_executor, toy_job):
    with toy_executor(2) as executor:
        for number in range(20):
            executor.submit(toy_job(f"score {number}"))
        ended = list(executor.as_completed())
    assert sorted(job.key for job, _, _ in ended) == sorted(f"score {number}" for number in range(20))
    assert all(isinstance(outcome, Scored) for _, outcome, _ in ended)


def test_jobs_may_be_submitted_while_others_are_awaited(toy_executor, toy_job):
    with toy_executor() as executor:
        executor.submit(toy_job("score 0"))
        seen = []
        for job, _, _ in executor.as_completed():
            seen.append(job.key)
            if len(seen) < 3:
                executor.submit(toy_job(f"score {len(seen)}"))
    assert seen == ["score 0", "score 1", "score 2"]


def test_jobs_of_one_worker_end_in_the_order_of_submission(toy_executor, toy_job):
    with toy_executor() as executor:
        for number in range(5):
            executor.submit(toy_job(f"score {number}"))
        assert list(outcomes(executor)) == [f"score {number}" for number in range(5)]


def test_a_worker_killed_during_a_job_is_replaced_and_the_job_is_retried_once(toy_executor, toy_job, tmp_path):
    with toy_executor() as executor:
        executor.submit(toy_job(f"once {tmp_path / 'started'}"))
        wait_for((tmp_path / "started").exists)
        (first,) = executor.worker_pids()
        os.kill(first, signal.SIGKILL)
        ended = list(executor.as_completed())
        assert executor.worker_pids() != [first]
    ((job, outcome, seconds),) = ended
    assert job.attempt == 1
    assert isinstance(outcome, Scored)
    assert outcome.metrics["attempt"] == 2
    assert executor.retries == 1
    assert seconds > 0


def test_a_job_whose_workers_die_twice_has_failed_and_is_not_a_score(toy_executor, toy_job):
    with toy_executor() as executor:
        executor.submit(toy_job("crash"))
        executor.submit(toy_job("score"))
        found = outcomes(executor)
    assert isinstance(found["crash"], Failed)
    assert found["crash"].error.startswith("2 workers died on crash, the last one by signal 9.")
    assert isinstance(found["score"], Scored)


def test_an_idle_worker_that_is_killed_is_replaced_without_costing_a_retry(toy_executor, toy_job):
    with toy_executor() as executor:
        warm(executor, toy_job("score"))
        (first,) = executor.worker_pids()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: executor.worker_pids() not in ([], [first]))
        executor.submit(toy_job("score again"))
        assert isinstance(outcomes(executor)["score again"], Scored)
    assert executor.retries == 0


@pytest.mark.parametrize("stopped", [False, True], ids=["busy", "stopped"])
def test_a_job_that_outlives_its_limit_is_killed_within_the_grace_and_rejected(toy_executor, toy_job, stopped):
    with toy_executor(grace_seconds=0.3) as executor:
        warm(executor, toy_job("score"))
        started = time.monotonic()
        executor.submit(toy_job("sleep 30", time_limit_seconds=0.3))
        if stopped:
            os.kill(executor.worker_pids()[0], signal.SIGSTOP)
        outcome = outcomes(executor)["sleep 30"]
        assert time.monotonic() - started < 0.6 + 1.0
        warm(executor, toy_job("score again"))
    assert isinstance(outcome, Rejected)
    assert outcome.stage == "deadline"
    assert outcome.reason.endswith("the limit is 0.3 s")


def test_a_limit_holds_while_the_caller_is_busy_with_something_else(toy_executor, toy_job):
    with toy_executor(grace_seconds=0.1) as executor:
        warm(executor, toy_job("score"))
        (worker,) = executor.worker_pids()
        executor.submit(toy_job("sleep 30", time_limit_seconds=0.2))
        time.sleep(1.0)
        assert worker not in executor.worker_pids()
        assert not alive(worker)


def test_a_worker_that_stands_still_beyond_its_lease_is_replaced_and_its_job_tried_again(
    toy_executor, toy_job, tmp_path
):
    with toy_executor(lease_seconds=3.0) as executor:
        executor.submit(toy_job(f"once {tmp_path / 'begun'}"))
        wait_for((tmp_path / "begun").exists)
        (stopped,) = executor.worker_pids()
        os.kill(stopped, signal.SIGSTOP)
        (outcome,) = outcomes(executor).values()
        assert isinstance(outcome, Scored)
        assert executor.retries == 1
        assert not alive(stopped)


def test_a_worker_that_works_for_longer_than_its_lease_gives_signs_of_life(toy_executor, toy_job):
    with toy_executor(lease_seconds=3.0) as executor:
        executor.submit(toy_job("sleep 5"))
        assert isinstance(outcomes(executor)["sleep 5"], Scored)
        assert executor.retries == 0


def test_waiting_ends_at_the_deadline_and_the_job_can_be_awaited_again(toy_executor, toy_job):
    with toy_executor() as executor:
        warm(executor, toy_job("score"))
        executor.submit(toy_job("sleep 0.6"))
        started = time.monotonic()
        assert outcomes(executor, started + 0.2) == {}
        assert 0.2 <= time.monotonic() - started < 0.5
        assert list(outcomes(executor)) == ["sleep 0.6"]


def test_a_job_that_ended_before_the_deadline_is_delivered_after_it(toy_executor, toy_job):
    with toy_executor() as executor:
        executor.submit(toy_job("score"))
        time.sleep(1.0)
        wait_for(lambda: outcomes(executor, time.monotonic()) != {})


def test_a_cancelled_job_never_comes_back_and_its_worker_is_replaced(toy_executor, toy_job, tmp_path):
    with toy_executor() as executor:
        running = executor.submit(toy_job(f"once {tmp_path / 'started'}"))
        wait_for((tmp_path / "started").exists)
        (first,) = executor.worker_pids()
        queued = executor.submit(toy_job("sleep 31"))
        executor.submit(toy_job("score again"))
        executor.cancel(queued)
        executor.cancel(running)
        executor.cancel(running)
        assert list(outcomes(executor)) == ["score again"]
        assert executor.worker_pids() != [first]
    assert executor.retries == 0


def test_what_a_job_prints_goes_to_the_log_and_cannot_forge_an_answer(toy_executor, toy_job, tmp_path):
    with toy_executor() as executor:
        executor.submit(toy_job("noise"))
        assert list(outcomes(executor)) == ["noise"]
    log = (tmp_path / "worker.log").read_text()
    assert "a print in the middle of the protocol" in log
    assert "forged" in log


def test_an_error_of_ours_is_failed_and_the_worker_is_not_used_again(toy_executor, toy_job, tmp_path):
    with toy_executor() as executor:
        warm(executor, toy_job("score"))
        (first,) = executor.worker_pids()
        executor.submit(toy_job("raise"))
        executor.submit(toy_job("score again"))
        found = outcomes(executor)
        assert executor.worker_pids() != [first]
    assert found["raise"] == Failed(error="RuntimeError: the disk of this worker is broken")
    assert isinstance(found["score again"], Scored)
    assert executor.retries == 0
    assert "Traceback" in (tmp_path / "worker.log").read_text()


def test_workers_that_never_start_fail_the_jobs_and_say_why(toy_executor, toy_job):
    command = (sys.executable, str(HERE / "toy_worker.py"), "--stillborn")
    with toy_executor(2, command=command) as executor:
        executor.submit(toy_job("score"))
        outcome = outcomes(executor)["score"]
    assert isinstance(outcome, Failed)
    assert "Worker processes do not start" in outcome.error
    assert "cannot start: no such library" in outcome.error


def test_an_answer_that_arrived_while_the_driver_was_stopped_beats_its_deadline(toy_executor, toy_job):
    """The thread is held back as a stopped driver would be: the answer and the deadline both wait for it."""
    with toy_executor(grace_seconds=0.0) as executor:
        warm(executor, toy_job("score"))
        executor.submit(toy_job("sleep 0.2", time_limit_seconds=0.4))
        time.sleep(0.05)
        executor._supervisor._command_thread(lambda: time.sleep(1.0))
        assert isinstance(outcomes(executor)["sleep 0.2"], Scored)


def test_an_answer_counts_once_although_its_worker_was_killed_before_it_was_read(toy_executor, toy_job):
    with toy_executor() as executor:
        warm(executor, toy_job("score"))
        executor.submit(toy_job("sleep 0.2"))
        time.sleep(0.1)
        executor._supervisor._command_thread(lambda: time.sleep(1.0))
        time.sleep(0.5)
        os.kill(executor.worker_pids()[0], signal.SIGKILL)
        ((_, outcome, _),) = executor.as_completed()
        assert outcome.metrics["attempt"] == 1
        assert executor.retries == 0


def test_an_answer_to_an_earlier_attempt_is_dropped(toy_executor, toy_job):
    with toy_executor() as executor:
        executor.submit(toy_job("stale", attempt=4))
        ((job, outcome, _),) = executor.as_completed()
    assert job.attempt == 4
    assert outcome.objectives == {"error": 0.5}


@pytest.mark.parametrize("line", ["{", "5", '{"key":1}'])
def test_a_worker_that_breaks_the_protocol_is_replaced_and_its_job_retried(toy_executor, toy_job, line):
    with toy_executor() as executor:
        executor.submit(toy_job(f"babble {line}"))
        ((_, outcome, _),) = executor.as_completed()
        assert outcome.metrics["attempt"] == 2
        assert executor.retries == 1


def test_closing_leaves_no_process_even_with_jobs_under_way(toy_executor, toy_job):
    with toy_executor(2) as executor:
        warm(executor, toy_job("score"))
        executor.submit(toy_job("sleep 30"))
        pids = executor.worker_pids()
        started = time.monotonic()
    assert time.monotonic() - started < 1.0
    assert not any(alive(pid) for pid in pids)
    executor.close()
    with pytest.raises(ValueError, match="The executor is closed and takes no jobs, but was given 'score'"):
        executor.submit(toy_job("score"))


def test_an_interrupt_in_the_terminal_does_not_reach_workers(toy_executor, toy_job):
    with toy_executor() as executor:
        warm(executor, toy_job("score"))
        (worker,) = executor.worker_pids()
        assert os.getsid(worker) != os.getsid(0)
        executor.submit(toy_job("sleep 0.3"))
        time.sleep(0.1)
        os.kill(worker, signal.SIGINT)
        assert isinstance(outcomes(executor)["sleep 0.3"], Scored)
    assert executor.retries == 0


DRIVER = """
import sys, time
sys.path.insert(0, {here!r})
from conftest import TEXT_ONLY, TOY
from chiasma.evaluate.executor import LocalExecutor
from chiasma.evaluate.job import Job
executor = LocalExecutor(2, command=TOY)
job = Job(key="score", design=TEXT_ONLY, dataset="nowhere", metric="accuracy")
for number in range(2):
    executor.submit(job)
assert len(list(executor.as_completed())) == 2
executor.submit(job.model_copy(update={{"key": "sleep 60"}}))
print(*executor.worker_pids(), flush=True)
{ending}
"""


@contextmanager
def driver_running(ending):
    """Run another driver with a busy and an idle worker; yield it and its workers' ids once both are warm."""
    code = DRIVER.format(here=str(HERE), ending=ending)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        try:
            pids = [int(pid) for pid in driver.stdout.readline().split()]
            assert len(pids) == 2
            yield driver, pids
        finally:
            driver.kill()


@pytest.mark.slow
def test_workers_are_gone_within_a_second_when_the_driver_is_killed():
    with driver_running("time.sleep(60)") as (driver, pids):
        assert all(alive(pid) for pid in pids)
        driver.kill()
        driver.wait()
        wait_for(lambda: not any(alive(pid) for pid in pids), seconds=1.0)


@pytest.mark.slow
def test_workers_are_gone_when_the_driver_ends_without_closing():
    with driver_running("") as (driver, pids):
        assert driver.wait(timeout=10) == 0
        wait_for(lambda: not any(alive(pid) for pid in pids), seconds=1.0)


COLLECT = """
executor.submit(job.model_copy(update={"key": "sleep 0.5", "time_limit_seconds": 1.0}))
print("submitted", flush=True)
for ended, outcome, _ in executor.as_completed(time.monotonic() + 30):
    print(ended.key, outcome.kind, flush=True)
    break
"""


@pytest.mark.slow
def test_an_answer_that_comes_while_the_driver_is_stopped_is_not_lost():
    with driver_running(COLLECT) as (driver, pids):
        assert driver.stdout.readline() == "submitted\n"
        os.kill(driver.pid, signal.SIGSTOP)
        time.sleep(3.0)
        assert all(alive(pid) for pid in pids)
        os.kill(driver.pid, signal.SIGCONT)
        assert driver.stdout.readline() == "sleep 0.5 scored\n"


@pytest.mark.parametrize("setting", ["workers", "threads"])
def test_numbers_below_one_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, but got 0"):
        LocalExecutor(**{"workers": 1, setting: 0})
