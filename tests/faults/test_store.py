"""Faults against the store: kills, full disks, many writers. More of the same: benchmarks/faults_store.py."""

import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.faults_store import (
    is_consistent,
    kill_while_recording,
    kill_while_saving,
    open_from_many,
    processes,
    save_small,
)
from chiasma.core.errors import StorageError
from chiasma.store.run import RunStore

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_there_is_always_a_loadable_checkpoint(tmp_path: Path):
    tally = kill_while_saving(tmp_path / "checkpoints", kills=15)
    assert (tally.faults, tally.bad, tally.notes) == (15, 0, [])


@pytest.mark.slow
def test_what_a_killed_writer_acknowledged_is_durable_and_readers_are_never_locked_out(tmp_path: Path):
    tally = kill_while_recording(tmp_path, kills=10)
    assert (tally.faults, tally.bad, tally.notes) == (10, 0, [])
    assert tally.acknowledged >= 10


@pytest.mark.slow
def test_eight_processes_open_a_test_split_and_each_opening_is_counted_once(tmp_path: Path):
    tally = open_from_many(tmp_path, writers=8, each=10)
    assert (tally.bad, tally.acknowledged, tally.notes) == (0, 80, [])


def _save_with_a_limit(folder: Path, answer: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    try:
        save_small(folder, 2)
    except StorageError as error:
        answer.write_text(str(error))


def test_a_file_that_may_not_grow_leaves_the_checkpoint_before(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    save_small(folder, 1)
    child = processes.Process(target=_save_with_a_limit, args=(folder, tmp_path / "answer"))
    child.start()
    child.join()
    message = (tmp_path / "answer").read_text()
    assert message.startswith(f"Cannot write {folder}/step-00000002.tmp/model.safetensors: the file would be larger")
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert is_consistent(folder) == 1


def in_a_tiny_disk(code: str, *, folder: Path, kilobytes: int) -> str:
    """Run Python with a file system of a few kilobytes mounted on ``folder``, seen by that process alone."""
    folder.mkdir()
    mount = f'mount -t tmpfs -o size={kilobytes}k none {folder} && exec {sys.executable} -c "$CODE" {folder}'
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("This system does not let a process mount a small disk of its own.")
    result = subprocess.run(
        [*unshare, mount], env={"CODE": textwrap.dedent(code), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_full_disk_leaves_a_loadable_checkpoint_and_says_so_in_one_line(tmp_path: Path):
    code = """
        import sys
        from pathlib import Path
        from benchmarks.faults_store import is_consistent, save_small
        from chiasma.core.errors import StorageError
        folder = Path(sys.argv[1])
        for step in range(99):
            try:
                save_small(folder, step, keep=99)
            except StorageError as error:
                print(error)
                break
        print(is_consistent(folder) == step - 1, list(folder.glob("*.tmp")))
    """
    answer = in_a_tiny_disk(code, folder=tmp_path / "disk", kilobytes=200).splitlines()
    assert answer[0].startswith(f"Cannot write {tmp_path}/disk/step-0000")
    assert answer[0].endswith(": the disk is full.")
    assert answer[1:] == ["True []"]


def test_a_full_disk_stops_a_run_in_one_line_and_keeps_what_was_recorded(tmp_path: Path):
    code = """
        import sys
        from pathlib import Path
        from chiasma.core.errors import StorageError
        from chiasma.store.run import RunStore
        store = RunStore.create(Path(sys.argv[1]), verb="evolve", config={}, provenance={})
        count = 0
        try:
            while True:
                store.record_event("note", {"text": "x" * 1000})
                count += 1
        except StorageError as error:
            print(error)
        store.close()
        with RunStore.open(store.path) as reader:
            print(count > 10, len(reader.events()) == count)
    """
    answer = in_a_tiny_disk(code, folder=tmp_path / "disk", kilobytes=600).splitlines()
    assert answer[0].startswith(f"Cannot use {tmp_path}/disk/evolve-")
    assert "the disk is full" in answer[0]
    assert answer[1:] == ["True True"]


def test_a_read_only_run_can_be_read(tmp_path: Path):
    with RunStore.create(tmp_path / "disk", verb="evolve", config={}, provenance={}) as store:
        store.record_event("note", {"text": "kept"})
    code = f"""
        import subprocess, sys
        from pathlib import Path
        from chiasma.core.errors import StorageError
        from chiasma.store.run import RunStore
        subprocess.run(["mount", "--bind", "-o", "ro", {str(tmp_path / "disk")!r}, sys.argv[1]], check=True)
        path = Path(sys.argv[1]) / {store.id!r}
        with RunStore.open(path) as reader:
            print(reader.events()[0].data["text"])
        try:
            RunStore.open(path, write=True)
        except StorageError as error:
            print(error)
    """
    answer = in_a_tiny_disk(code, folder=tmp_path / "view", kilobytes=100).splitlines()
    assert answer[0] == "kept"
    assert answer[1].endswith("run.lock: the file system is read-only.")
