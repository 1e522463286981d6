"""The whole run on real, small data with real worker processes: its promises, killed, interrupted and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chiasma.core.errors import DataError, RunBusyError
from chiasma.core.outcome import Scored
from chiasma.experiment.compose import load_config
from chiasma.experiment.evolve import evolve, resume
from chiasma.experiment.results import RunResult
from chiasma.experiment.saved import SavedModel
from chiasma.store.openings import OpeningLedger
from chiasma.store.run import RunStore

# The reference is made once: by one of the processes that run tests.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("evolve")]

TIMINGS = {"train_seconds", "latency"}


class TalkingConsole:
    """Keeps what is said, and is interrupted once a line holds the given words."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.lines: list[str] = []
        self.stop_at = stop_at

    @property
    def interrupted(self) -> bool:
        return self.stop_at is not None and any(self.stop_at in line for line in self.lines)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def status(self, text: str) -> None:
        """Drop it."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache and a ledger of their own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASMA_CACHE", str(folder / "cache"))
        patch.setenv("CHIASMA_STATE", str(folder / "state"))
        yield folder


def config(runs: Path, *settings: str):
    return load_config("quick", data=None, overrides=[f"run.folder={runs}", "run.budget=4", *settings])


@pytest.fixture(scope="module")
def reference(home, tmp_path_factory) -> RunResult:
    return evolve(config(tmp_path_factory.mktemp("reference")), console=TalkingConsole())


def trace(run: Path) -> tuple:
    """Return everything that must be the same after an interruption."""
    with RunStore.open(run) as store:
        candidates = [(row.number, row.hash, row.proposer, row.edit) for row in store.candidates()]
        jobs = {}
        for job in store.jobs():
            if isinstance(job.outcome, Scored):
                metrics = {name: value for name, value in job.outcome.metrics.items() if name not in TIMINGS}
                jobs[job.key] = (dict(job.outcome.objectives), metrics)
            elif job.outcome is not None:
                jobs[job.key] = job.outcome.to_dict()
    results = json.loads((run / "results.json").read_text())
    judged = {name: results[name] for name in ("gains", "winner", "calibration", "per_label", "design")}
    return candidates, jobs, judged


def test_a_run_ends_with_floors_a_winner_and_its_gains(reference):
    roles = [arm.role for arm in reference.results.arms]
    assert roles.count("winner") == 1
    assert roles.count("floor") >= 8
    assert {gain.against for gain in reference.results.gains} >= {"majority", "linear", "concat"} - {
        reference.results.winner
    }


def test_the_winner_is_never_worse_on_select_than_a_floor_that_is_a_design(reference):
    designs = [arm for arm in reference.results.arms if arm.candidate is not None]
    (winner,) = [arm for arm in designs if arm.role == "winner"]
    assert winner.select["accuracy"] >= max(arm.select["accuracy"] for arm in designs if arm.role == "floor")


def test_the_floors_are_recorded_before_anything_is_proposed(reference):
    with RunStore.open(reference.run_path) as store:
        proposers = [row.proposer for row in store.candidates()]
    assert proposers[:7] == ["floor"] * 6 + ["settings"]
    assert set(proposers[7:]) <= {"random", "local", "attention", "fusion"}


def test_the_saved_model_says_where_it_comes_from(reference):
    saved = SavedModel.load(reference.model_path, device="cpu")
    assert saved.labels == ("false", "true")
    assert saved.card["run"] == reference.run_path.name


def test_the_test_split_was_opened_once_and_the_run_says_so(home, reference):
    with RunStore.open(reference.run_path) as store:
        fingerprint = store.events("dataset")[0].data["fingerprint"]
    opened = [
        o for o in OpeningLedger(home / "state").openings(fingerprint) if o.run.startswith(reference.run_path.name)
    ]
    assert len(opened) == 1
    assert reference.results.opening is not None


def openings(home: Path, run: Path) -> int:
    """Return how often the test split of a run's data has been opened, by whatever run."""
    with RunStore.open(run) as store:
        fingerprint = store.events("dataset")[0].data["fingerprint"]
    return len(OpeningLedger(home / "state").openings(fingerprint))


def test_two_runs_with_one_seed_are_identical_whatever_the_number_of_workers(home, reference, tmp_path):
    again = evolve(config(tmp_path, "run.workers=1"), console=TalkingConsole())
    assert trace(again.run_path) == trace(reference.run_path)


def test_an_interrupted_run_saves_the_best_so_far_keeps_the_seal_and_resumes_to_the_same_result(
    home, reference, tmp_path
):
    stopped = evolve(config(tmp_path), console=TalkingConsole(stop_at="generation 1:"))
    assert stopped.stopped == "interrupted"
    assert stopped.results.opening is None
    assert SavedModel.load(stopped.model_path).labels == ("false", "true")
    finished = resume(stopped.run_path, console=TalkingConsole())
    assert finished.stopped == "finished"
    assert trace(finished.run_path) == trace(reference.run_path)


def test_a_killed_run_resumes_to_the_same_result(home, reference, tmp_path):
    command = [sys.executable, "-m", "chiasma", "evolve", "--config", "quick", "--budget", "4"]
    process = subprocess.Popen(
        [*command, "--set", f"run.folder={tmp_path}"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (path,) = _wait_for(lambda: [p for p in tmp_path.glob("evolve-*") if _finished_jobs(p) >= 5])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _wait_for(lambda: [True] if not _is_busy(path) else [])
    assert trace(resume(path, console=TalkingConsole()).run_path) == trace(reference.run_path)


def test_a_killed_run_on_ray_leaves_no_worker_and_resumes_to_the_result_of_local_workers(home, reference, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'chiasma[ray]'")
    settings = [f"run.folder={tmp_path}", "run.executor=ray", "run.workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "chiasma", "evolve", "--config", "quick", "--budget", "4", "--set", *settings],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (path,) = _wait_for(lambda: [p for p in tmp_path.glob("evolve-*") if _finished_jobs(p) >= 5])
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "TrialActor" in p.name()]
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _wait_for(lambda: [True] if not any(p.is_running() for p in workers) else [], seconds=10.0)
    before = psutil.Process().children(recursive=True)
    finished = resume(path, console=TalkingConsole())
    assert trace(finished.run_path) == trace(reference.run_path)
    # What other tests left behind may end meanwhile.
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def test_a_larger_budget_goes_on_is_remembered_and_counts_as_another_look_at_test(home, reference, tmp_path):
    path = tmp_path / reference.run_path.name
    shutil.copytree(reference.run_path, path)
    before = openings(home, path)
    more = resume(path, budget="7", console=TalkingConsole())
    assert more.results.budget["candidates"] == 7
    assert openings(home, path) == before + 1
    again = resume(path, console=TalkingConsole())
    assert again.results.budget["candidates"] == 7
    assert again.results.opening == more.results.opening


def test_a_run_on_data_below_the_working_folder_is_resumed(home, tmp_path, monkeypatch):
    rows = [f"{n},text {n % 7} number {n},{'yes' if n % 7 > 3 else 'no'}" for n in range(200)]
    (tmp_path / "data.csv").write_text("id,text,label\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    source = f"data.source={tmp_path / 'data.csv'}"
    settings = config(tmp_path / "runs", source, "run.budget=1", "run.workers=1")
    stopped = evolve(settings, console=TalkingConsole(stop_at="floor"))
    assert resume(stopped.run_path, console=TalkingConsole()).stopped == "finished"


def test_a_metric_that_select_does_not_define_is_refused_before_anything_is_trained(home, tmp_path):
    rows = [f"{n},text {n},{'no' if n < 160 else 'yes'},{'train' if n % 2 or n > 100 else 'val'}" for n in range(200)]
    manifest = tmp_path / "data.csv"
    manifest.write_text("id,text,label,split\n" + "\n".join(rows) + "\n")
    settings = (f"data.source={manifest}", "evaluate.metric=auroc")
    with pytest.raises(DataError, match="auroc is not defined on the select split"):
        evolve(config(tmp_path / "runs", *settings), console=TalkingConsole())
    assert not (tmp_path / "runs").exists()


def test_a_second_process_on_the_same_run_is_refused(home, reference):
    with RunStore.open(reference.run_path, write=True), pytest.raises(RunBusyError, match="another process"):
        resume(reference.run_path, console=TalkingConsole())


def test_a_run_whose_data_changed_is_not_resumed(home, reference, tmp_path):
    manifest = tmp_path / "data.csv"
    rows = [f"{n},text {n % 7} number {n},{'yes' if n % 7 > 3 else 'no'}" for n in range(200)]
    manifest.write_text("id,text,label\n" + "\n".join(rows) + "\n")
    source = f"data.source={manifest}"
    stopped = evolve(config(tmp_path, source, "run.workers=1"), console=TalkingConsole(stop_at="floor"))
    manifest.write_text("id,text,label\n" + "\n".join(rows[:150]) + "\n")
    with pytest.raises(DataError, match="have changed"):
        resume(stopped.run_path, console=TalkingConsole())


def test_a_time_budget_is_kept_and_a_resumed_run_keeps_its_floors_its_winner_and_its_plan(home, tmp_path):
    started = time.monotonic()
    first = evolve(config(tmp_path, "run.budget=15s"), console=TalkingConsole())
    assert time.monotonic() - started < 15 + 10
    assert first.stopped == "finished"
    again = resume(first.run_path, console=TalkingConsole())
    assert [arm.name for arm in again.results.arms] == [arm.name for arm in first.results.arms]
    assert again.results.design == first.results.design
    more = resume(first.run_path, budget="25s", console=TalkingConsole())
    assert {arm.name for arm in more.results.arms} >= {"majority", "tfidf_logistic", "winner"}
    with RunStore.open(first.run_path) as store:
        plans = [event.data["value"] for event in store.events("decision") if event.data["name"].startswith("plan for")]
    assert len({(plan["visits"], tuple(plan["rungs"]), plan["top"]) for plan in plans}) == 1


def _finished_jobs(path: Path) -> int:
    with RunStore.open(path) as store:
        return sum(job.outcome is not None for job in store.jobs())


def _is_busy(path: Path) -> bool:
    try:
        RunStore.open(path, write=True).close()
    except RunBusyError:
        return True
    return False


def _wait_for(look, *, seconds: float = 120.0) -> list:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("It never happened.")
