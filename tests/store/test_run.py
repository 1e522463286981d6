"""A run's folder and database: one writer, many readers, every job counted once."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from chiasma.core.errors import ConfigError, CorruptFileError, RunBusyError, StorageError
from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.store.run import RunStore

SCORED = Scored(objectives={"error": 0.25, "flops": 1e6}, metrics={"accuracy": 0.75})

# Newer Pythons warn of any fork under threads; this is the very thing that is tested.
FORKS = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def store(tmp_path: Path):
    with RunStore.create(tmp_path / "runs", verb="evolve", config={"seed": 3}, provenance={"commit": None}) as opened:
        yield opened


def add(store: RunStore, hash: str = "abc") -> int:
    return store.add_candidate(hash, proposer="local", generation=2, genome=[1, None], design={"dim": 8}, edit="wider")


def test_a_new_run_has_its_settings_and_its_origin_beside_the_database(store: RunStore):
    assert store.id.startswith("evolve-2")
    assert store.config == {"seed": 3}
    assert store.provenance == {"commit": None}
    assert store.status == "running"
    assert sorted(path.name for path in store.path.iterdir() if "run.db-" not in path.name) == [
        "config.json",
        "provenance.json",
        "run.db",
        "run.lock",
    ]


def test_a_database_commits_to_disk_and_keeps_its_references(store: RunStore):
    database = store._database
    assert database is not None
    assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert database.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert database.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_candidates_are_numbered_from_one_and_come_back_as_they_were(store: RunStore):
    assert (add(store, "a"), add(store, "b")) == (1, 2)
    row = store.candidate(2)
    assert (row.number, row.hash, row.proposer, row.generation, row.edit) == (2, "b", "local", 2, "wider")
    assert (row.genome, row.design, row.parents) == ([1, None], {"dim": 8}, ())
    assert store.candidates() == [store.candidate(1), row]
    assert store.by_hash("b") == row
    assert store.by_hash("c") is None


def test_an_equal_design_keeps_its_number(store: RunStore):
    first = add(store, "a")
    again = store.add_candidate("a", proposer="random", generation=9, genome=0, design={}, parents=("x",))
    assert again == first
    assert store.candidate(first).proposer == "local"


def test_an_unknown_candidate_is_refused(store: RunStore):
    add(store)
    with pytest.raises(ConfigError, match=r"has no candidate 7: it has 1, counted from 1\."):
        store.candidate(7)
    with pytest.raises(ConfigError, match="has no candidate 7"):
        store.begin_job("a", 7, rung=0, seed=1, purpose="search")


def test_a_job_is_finished_once(store: RunStore):
    attempt = store.begin_job("a", add(store), rung=1, seed=2**63 - 1, purpose="search")
    assert attempt == 1
    assert store.finish_job("a", attempt, outcome=SCORED, seconds=1.5, extra={"elapsed": 2.0})
    assert not store.finish_job("a", attempt, outcome=Failed(error="late"), seconds=9.0)
    row = store.job("a")
    assert row is not None
    assert (row.outcome, row.seconds, row.extra, row.seed, row.rung) == (SCORED, 1.5, {"elapsed": 2.0}, 2**63 - 1, 1)


def test_a_late_writer_of_an_earlier_attempt_is_fenced_off(store: RunStore):
    lost = store.begin_job("a", None, rung=0, seed=1, purpose="search")
    retried = store.begin_job("a", None, rung=0, seed=1, purpose="search")
    assert (lost, retried) == (1, 2)
    assert not store.finish_job("a", lost, outcome=SCORED, seconds=1.0)
    assert store.job("a").outcome is None  # pyright: ignore[reportOptionalMemberAccess]
    assert store.finish_job("a", retried, outcome=Rejected(stage="probe", reason="NaN"), seconds=1.0)
    assert not store.finish_job("a", lost, outcome=SCORED, seconds=1.0)
    assert store.job("a").outcome == Rejected(stage="probe", reason="NaN")  # pyright: ignore[reportOptionalMemberAccess]


def test_a_finished_job_is_not_begun_again(store: RunStore):
    attempt = store.begin_job("a", None, rung=0, seed=1, purpose="search")
    store.finish_job("a", attempt, outcome=SCORED, seconds=1.0)
    with pytest.raises(ValueError, match="Job 'a' has already finished"):
        store.begin_job("a", None, rung=0, seed=1, purpose="search")


def test_jobs_come_back_in_the_order_they_were_first_begun(store: RunStore):
    for key in ("c", "a", "b", "c"):
        store.begin_job(key, None, rung=0, seed=1, purpose="floor" if key == "b" else "search")
    assert [job.key for job in store.jobs()] == ["c", "a", "b"]
    assert [job.key for job in store.jobs("search")] == ["c", "a"]
    assert [job.attempt for job in store.jobs()] == [2, 1, 1]


def test_events_come_back_in_order(store: RunStore):
    assert store.record_event("decision", {"name": "plan", "value": 0.1}) == 1
    store.record_event("note", {})
    assert [event.kind for event in store.events()] == ["decision", "note"]
    assert store.events("decision")[0].data == {"name": "plan", "value": 0.1}


def test_an_unknown_status_is_refused(store: RunStore):
    store.set_status("stopped")
    assert store.status == "stopped"
    with pytest.raises(ValueError, match="status must be one of running, finished, stopped, failed, but got 'done'"):
        store.set_status("done")  # pyright: ignore[reportArgumentType]


def test_a_reader_sees_what_is_recorded_and_changes_nothing(store: RunStore):
    with RunStore.open(store.path) as reader:
        add(store)
        assert reader.candidates() == store.candidates()
        with pytest.raises(StorageError, match="was opened for reading; open it with write=True"):
            reader.record_event("note", {})


def test_a_second_writer_is_told_who_writes(store: RunStore):
    code = f"""
from pathlib import Path
from chiasma.core.errors import RunBusyError
from chiasma.store.run import RunStore
try:
    RunStore.open(Path({str(store.path)!r}), write=True)
except RunBusyError as error:
    print(error)
print(len(RunStore.open(Path({str(store.path)!r})).jobs()))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"another process (pid {os.getpid()}) is writing to it" in answer
    assert answer.endswith("\n0\n")


def test_a_run_is_free_again_when_its_writer_closes(store: RunStore):
    with pytest.raises(RunBusyError):
        RunStore.open(store.path, write=True)
    store.close()
    with RunStore.open(store.path, write=True) as next_writer:
        next_writer.record_event("note", {})


def test_a_run_is_interrupted_when_it_says_running_and_nobody_writes(store: RunStore):
    with RunStore.open(store.path) as reader:
        assert not reader.is_interrupted
        store.close()
        assert reader.is_interrupted
    with RunStore.open(store.path, write=True) as writer:
        writer.set_status("finished")
        assert not writer.is_interrupted


def test_a_closed_run_says_so(store: RunStore):
    store.close()
    with pytest.raises(ValueError, match="is closed"):
        store.jobs()


@FORKS
def test_a_run_opened_before_a_fork_refuses_to_work_in_the_child(store: RunStore):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.jobs()
            message = "used"
        except RuntimeError as error:
            message = str(error)
        os.write(write, message.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    message = os.read(read, 10_000).decode()
    os.close(read)
    assert f"was opened by process {os.getpid()}, but process {child} is using it" in message
    store.record_event("note", {})


@FORKS
def test_a_forked_child_does_not_keep_the_lock(store: RunStore):
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        store.close()
        RunStore.open(store.path, write=True).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no run\.db\."):
        RunStore.open(tmp_path)


def test_a_run_of_a_newer_version_is_refused_with_both_versions(store: RunStore):
    store.close()
    database = sqlite3.connect(store.path / "run.db")
    database.execute("PRAGMA user_version=99")
    database.close()
    for write in (False, True):
        with pytest.raises(
            StorageError, match=r"schema version 99, but this chiasma knows versions up to 1\..*upgrade"
        ):
            RunStore.open(store.path, write=write)


def test_a_damaged_database_is_refused(store: RunStore):
    store.close()
    (store.path / "run.db").write_bytes(b"not a database, but long enough to be read as a header" * 99)
    with pytest.raises(CorruptFileError, match="it is not a database"):
        RunStore.open(store.path)


def test_a_failed_opening_frees_the_run(store: RunStore):
    store.close()
    original = (store.path / "run.db").read_bytes()
    (store.path / "run.db").write_bytes(b"x" * 5000)
    with pytest.raises(CorruptFileError):
        RunStore.open(store.path, write=True)
    (store.path / "run.db").write_bytes(original)
    RunStore.open(store.path, write=True).close()


def test_a_run_cannot_be_made_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Cannot write .*/file/runs: a part of the path is a file"):
        RunStore.create(tmp_path / "file" / "runs", verb="train", config={}, provenance={})


def test_secrets_in_settings_events_and_errors_are_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    canary = "canary-51ef-value"
    monkeypatch.setenv("OPENAI_API_KEY", canary)
    with RunStore.create(tmp_path, verb="evolve", config={"llm": {"header": canary}}, provenance={}) as store:
        store.record_event("call", {"headers": [f"Bearer {canary}"]})
        attempt = store.begin_job("a", None, rung=0, seed=1, purpose="search")
        store.finish_job("a", attempt, outcome=Failed(error=f"401 for {canary}"), seconds=1.0, extra={"key": canary})
        assert store.job("a").outcome == Failed(error="401 for ***")  # pyright: ignore[reportOptionalMemberAccess]
        path = store.path
        for file in path.rglob("*"):
            assert canary.encode() not in file.read_bytes()
