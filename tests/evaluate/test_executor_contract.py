"""What every executor promises, tried on each of them; their own faults are tested beside them."""

import time

import pytest

from chiasma.core.outcome import Scored
from chiasma.evaluate.inline import InlineExecutor

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


def toy_outcome(job):
    import toy_worker

    return toy_worker.evaluate(job.to_dict())


@pytest.fixture(params=["local", "inline", "ray"])
def make_executor(request):
    if request.param == "inline":
        return lambda workers=1: InlineExecutor(toy_outcome)
    return request.getfixturevalue("toy_executor" if request.param == "local" else "ray_toy_executor")


def keys(executor, deadline=None):
    return [job.key for job, _, _ in executor.as_completed(deadline)]


def test_every_submitted_job_comes_back_once_as_it_was_with_its_outcome(make_executor, toy_job):
    jobs = [toy_job(f"score {number}", attempt=3) for number in range(6)]
    with make_executor(2) as executor:
        for job in jobs:
            executor.submit(job)
        ended = list(executor.as_completed())
        assert keys(executor) == []
    assert sorted(job.key for job, _, _ in ended) == [job.key for job in jobs]
    assert all(job in jobs for job, _, _ in ended)
    assert [outcome for _, outcome, _ in ended] == [Scored(objectives={"error": 0.5}, metrics={"attempt": 3.0})] * 6
    assert all(seconds >= 0 for _, _, seconds in ended)


def test_one_worker_takes_jobs_in_order_also_those_submitted_while_others_are_awaited(make_executor, toy_job):
    with make_executor() as executor:
        executor.submit(toy_job("score 0"))
        executor.submit(toy_job("score 1"))
        seen = []
        for job, _, _ in executor.as_completed():
            seen.append(job.key)
            if len(seen) < 3:
                executor.submit(toy_job(f"score {len(seen) + 1}"))
    assert seen == ["score 0", "score 1", "score 2", "score 3"]


def test_nothing_is_awaited_after_the_deadline_and_the_job_comes_later(make_executor, toy_job):
    with make_executor() as executor:
        executor.submit(toy_job("sleep 0.3"))
        started = time.monotonic()
        assert keys(executor, started) == []
        assert time.monotonic() - started < 0.2
        assert keys(executor) == ["sleep 0.3"]


def test_a_cancelled_job_never_comes_back_and_unknown_handles_are_ignored(make_executor, toy_job):
    with make_executor() as executor:
        executor.submit(toy_job("score 0"))
        queued = executor.submit(toy_job("score 1"))
        executor.submit(toy_job("score 2"))
        executor.cancel(queued)
        executor.cancel(queued)
        executor.cancel(99)
        assert keys(executor) in (["score 0", "score 2"], ["score 2", "score 0"])


def test_closing_loses_what_was_outstanding_and_may_be_repeated(make_executor, toy_job):
    with make_executor() as executor:
        executor.submit(toy_job("sleep 30"))
    executor.close()
    assert keys(executor) == []
