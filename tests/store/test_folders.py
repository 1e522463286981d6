"""Runs are found by path, name, beginning or ``latest``; a miss names what was near."""

import re
from pathlib import Path

import pytest

from chiasma.core.errors import ConfigError
from chiasma.store.folders import cache_folder, find_run, ledger_folder, list_runs, runs_root
from chiasma.store.run import RunStore, new_run_id


def make(root: Path, name: str) -> Path:
    with RunStore.create(root, verb="train", config={}, provenance={}) as store:
        made = store.path
    return made.rename(root / name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train-20260102-000000-aaaa", "evolve-20260101-120000-7f3a", "evolve-memes-20260103-000000-bbbb"):
        make(tmp_path, name)
    (tmp_path / ".evolve-20260104-000000-cccc.tmp").mkdir()
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_ids_say_what_and_when_and_differ():
    ids = {new_run_id("evolve") for _ in range(20)}
    assert len(ids) > 15
    assert all(re.fullmatch(r"evolve-\d{8}-\d{6}-[0-9a-f]{4}", name) for name in ids)


def test_runs_are_listed_by_time_whatever_their_verb(root: Path):
    assert [path.name for path in list_runs(root)] == [
        "evolve-20260101-120000-7f3a",
        "train-20260102-000000-aaaa",
        "evolve-memes-20260103-000000-bbbb",
    ]


def test_runs_of_one_second_are_listed_in_the_order_they_were_made(tmp_path: Path):
    made = [make(tmp_path, f"train-20260102-000000-{suffix}").name for suffix in ("cccc", "aaaa", "bbbb")]
    assert [path.name for path in list_runs(tmp_path)] == made


def test_there_are_no_runs_where_there_is_no_folder(tmp_path: Path):
    assert list_runs(tmp_path / "missing") == []
    with pytest.raises(ConfigError, match=r"run 'latest' was not found: there are no runs in .*missing\."):
        find_run("latest", tmp_path / "missing")


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("latest", "evolve-memes-20260103-000000-bbbb"),
        ("train-20260102-000000-aaaa", "train-20260102-000000-aaaa"),
        ("train", "train-20260102-000000-aaaa"),
        ("evolve-m", "evolve-memes-20260103-000000-bbbb"),
    ],
)
def test_a_run_is_found_by_what_is_clear(root: Path, reference: str, name: str):
    assert find_run(reference, root) == root / name


def test_a_run_is_found_by_its_path(root: Path, tmp_path: Path):
    path = root / "train-20260102-000000-aaaa"
    assert find_run(str(path), tmp_path / "elsewhere") == path


def test_an_unclear_beginning_names_the_runs_that_begin_so(root: Path):
    with pytest.raises(ConfigError, match=r"'evolve' is the beginning of 2 ids: evolve-2026.*, evolve-memes-.*bbbb\."):
        find_run("evolve", root)


@pytest.mark.parametrize("reference", ["trian-20260102-000000-aaaa", "", "notes"])
def test_a_run_that_does_not_exist_is_refused(root: Path, reference: str):
    with pytest.raises(ConfigError, match=rf"run '{reference}' was not found in .*The newest: evolve-memes") as caught:
        find_run(reference, root)
    assert ("Did you mean 'train-20260102-000000-aaaa'?" in str(caught.value)) == reference.startswith("trian")


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("CHIASMA_RUNS", "CHIASMA_CACHE", "CHIASMA_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/reader")
    assert runs_root() == Path("runs")
    assert cache_folder() == Path("/home/reader/.cache/chiasma")
    assert ledger_folder() == Path("/home/reader/.local/state/chiasma")
    for name, function in (("RUNS", runs_root), ("CACHE", cache_folder), ("STATE", ledger_folder)):
        monkeypatch.setenv(f"CHIASMA_{name}", "/elsewhere")
        assert function() == Path("/elsewhere")
