"""The search loop: what it does must depend on recorded rows alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chiasma.core.outcome import Failed
from chiasma.experiment.config import Budget
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.driver import Clock, Driver, decisions_of
from chiasma.experiment.fusing import budget_left
from chiasma.search.random_search import RandomSearch
from chiasma.store.run import RunStore

from .toy_run import ToyExecutor, new_store, run_search, trace


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with new_store(tmp_path_factory.mktemp("reference")) as store:
        return trace(store, run_search(store, ToyExecutor(), workers=1))


def test_a_search_asks_for_as_many_candidates_as_the_budget_counts(reference):
    candidates, *_ = reference
    assert len(candidates) == 30


@pytest.mark.parametrize(("workers", "order"), [(1, 1), (2, 0), (2, 5), (8, 3), (12, None)])
def test_the_result_depends_neither_on_workers_nor_on_the_order_of_arrival(tmp_path, reference, workers, order):
    with new_store(tmp_path) as store:
        assert trace(store, run_search(store, ToyExecutor(order), workers=workers)) == reference


@pytest.mark.parametrize("answers", [1, 7, 23, 40])
def test_an_interrupted_search_continues_to_the_identical_result(tmp_path, reference, answers):
    with new_store(tmp_path) as store:
        path = store.path
        with pytest.raises(KeyboardInterrupt):
            run_search(store, ToyExecutor(answers, answers=answers), workers=2)
    with RunStore.open(path, write=True) as store:
        executor = ToyExecutor(99)
        assert trace(store, run_search(store, executor, workers=2)) == reference
        assert len(executor.answered) + answers == len(store.jobs())


def test_a_killed_search_continues_to_the_identical_result(tmp_path, reference):
    program = (
        "import sys; from pathlib import Path\n"
        "from tests.experiment.toy_run import KillingExecutor, new_store, run_search\n"
        "run_search(new_store(Path(sys.argv[1])), KillingExecutor(3, answers=11), workers=2)\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, capture_output=True)
    assert ended.returncode == -9
    (path,) = (folder for folder in tmp_path.iterdir() if (folder / "run.db").exists())
    with RunStore.open(path, write=True) as store:
        assert sum(job.outcome is not None for job in store.jobs()) == 11
        assert trace(store, run_search(store, ToyExecutor(4), workers=2)) == reference


class OnceFailing(ToyExecutor):
    """Fails its fourth job, as a worker that was killed twice does."""

    def as_completed(self, deadline=None):
        for job, outcome, seconds in super().as_completed(deadline):
            yield job, Failed(error="killed twice") if len(self.answered) == 4 else outcome, seconds


def test_where_measured_seconds_decide_whose_turn_it_is_a_repetition_takes_the_recorded_turns(tmp_path):
    def proposers(recorded=None):
        with new_store(tmp_path) as store:
            run_search(store, ToyExecutor(answers=40), workers=1, trials=None, recorded=recorded)
            return {row.proposer for row in store.candidates()}

    assert proposers() == {"random", "local"}
    assert proposers({f"turn {number}": {"proposer": "random"} for number in range(1, 99)}) == {"random"}
    assert proposers({f"turn {number}": {"proposer": "absent"} for number in range(1, 99)}) == {"random", "local"}


def test_the_gain_of_each_proposer_is_what_it_lowered_the_lowest_error_by(tmp_path):
    with new_store(tmp_path) as store:
        loop = run_search(store, ToyExecutor(), workers=1)
    assert loop.gains.keys() == {"random", "local"}
    assert sum(loop.gains.values()) == pytest.approx(loop.anytime[0].error - loop.anytime[-1].error)


def test_a_failure_of_ours_is_a_part_of_the_past_that_a_resume_repeats(tmp_path):
    with new_store(tmp_path) as store:
        path = store.path
        before = trace(store, run_search(store, OnceFailing(), workers=2))
    with RunStore.open(path, write=True) as store:
        executor = ToyExecutor(99)
        assert trace(store, run_search(store, executor, workers=2)) == before
        assert executor.answered == []


def test_the_control_is_never_starved(reference):
    candidates, *_ = reference
    share = sum(proposer == "random" for _, _, proposer, _, _ in candidates) / len(candidates)
    assert share >= 0.2


def test_what_leads_is_trained_on_a_second_seed_and_counts_by_its_mean(tmp_path):
    with new_store(tmp_path) as store:
        loop = run_search(store, ToyExecutor(), workers=2)
        repeated = [job for job in store.jobs("search") if job.key.startswith("again-")]
        assert repeated
        assert len({job.candidate for job in repeated}) == len(repeated)
        for job in repeated:
            first = next(each for each in store.jobs() if each.candidate == job.candidate and each.rung == job.rung)
            assert (job.rung, job.seed != first.seed) == (loop.ladder.top, True)
            known = loop.archive.by_hash(store.candidate(job.candidate).hash)
            assert sum(each.rung == job.rung for each in known) == 2


def test_what_an_older_generation_still_needs_goes_before_a_younger_one(tmp_path):
    with new_store(tmp_path) as store:
        executor = ToyExecutor()
        run_search(store, executor, workers=1)
        generations = {row.number: row.generation for row in store.candidates()}
    order = [generations[int(key.split("/")[1])] for key in executor.answered if key.startswith("search/")]
    last = max(place for place, generation in enumerate(order) if generation == 0)
    # A worker that becomes free takes what is there: once for each rung.
    assert order[:last].count(1) <= 2


def test_proposals_are_thought_out_by_one_thread_and_the_caller_keeps_the_threads_it_had(tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), set[int]()
    ask = RandomSearch.ask

    def watched(self, count, archive):
        seen.add(torch.get_num_threads())
        return ask(self, count, archive)

    monkeypatch.setattr(RandomSearch, "ask", watched)
    torch.set_num_threads(3)
    try:
        with new_store(tmp_path) as store:
            run_search(store, ToyExecutor(), workers=1, trials=6)
        assert (seen, torch.get_num_threads()) == ({1}, 3)
    finally:
        torch.set_num_threads(before)


def test_the_budget_that_a_policy_saw_stays_what_it_was_when_a_search_is_resumed_with_a_larger_one(tmp_path):
    def left(store, budget, asks, recorded=None):
        driver = Driver(store, ToyExecutor(), console=SilentConsole(), clock=Clock(), workers=2, recorded=recorded)
        seen = budget_left(driver, Budget.parse(budget), workers=2)
        return [seen(number, 10.0 * number) for number in range(asks)]

    for budget, larger, first, more in (("10", "20", [1.0, 0.9], 0.9), ("50s", "100s", [1.0, 0.9], 0.9)):
        with new_store(tmp_path) as store:
            path = store.path
            assert left(store, budget, 2) == pytest.approx(first)
        with RunStore.open(path, write=True) as store:
            assert left(store, larger, 3) == pytest.approx([*first, more])
            recorded = decisions_of(store)
        with new_store(tmp_path) as store:
            assert left(store, "1", 3, recorded) == pytest.approx([*first, more])


def test_a_decision_is_taken_once_and_repeated_by_a_resume_and_where_asked_for_by_a_repetition(tmp_path):
    def driver(store, recorded=None):
        return Driver(store, ToyExecutor(), console=SilentConsole(), clock=Clock(), workers=1, recorded=recorded)

    with new_store(tmp_path) as store:
        path = store.path
        assert driver(store).decide("left", lambda: {"left": 0.5}) == {"left": 0.5}
    with RunStore.open(path, write=True) as store:
        assert driver(store).decide("left", lambda: {"left": 0.1}) == {"left": 0.5}
        recorded = decisions_of(store)
    with new_store(tmp_path) as store:
        again = driver(store, recorded)
        assert again.decide("left", lambda: {"left": 0.2}, repeated=True) == {"left": 0.5}
        assert again.decide("other", lambda: {"left": 0.3}, repeated=True) == {"left": 0.3}
        assert decisions_of(store) == {"left": {"left": 0.5}, "other": {"left": 0.3}}
    with new_store(tmp_path) as store:
        assert driver(store, recorded).decide("left", lambda: {"left": 0.2}) == {"left": 0.2}
