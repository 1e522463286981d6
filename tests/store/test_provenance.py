"""A result says where it came from, without a secret and without importing torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import chiasma
from chiasma.store.provenance import environment_changes, git_state, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    result = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "src" / "chiasma"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Begin", "--no-verify")
    return package


def test_provenance_is_plain_json_and_says_what_ran():
    found = provenance(["chiasma", "evolve", "--budget", "3m"], 7)
    assert json.loads(json.dumps(found)) == found
    assert (found["seed"], found["command"]) == (7, ["chiasma", "evolve", "--budget", "3m"])
    assert found["chiasma"]["version"] == chiasma.__version__
    assert found["packages"]["numpy"] == found["environment"]["packages"]["numpy"]
    assert found["environment"]["cpu"]
    assert found["memory_bytes"] > 1e8
    assert found["cores"] >= 1


def test_values_of_the_environment_are_not_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXAMPLE_TOKEN", "canary-123456")
    monkeypatch.setenv("EXAMPLE_NAME", "another-canary")
    text = json.dumps(provenance(["chiasma", "--set", "a=canary-123456"], 0))
    assert "canary" not in text


def test_the_fingerprint_is_that_of_the_environment():
    first, second = provenance(["a"], 0), provenance(["b"], 1)
    assert first["fingerprint"] == second["fingerprint"]


def test_a_changed_environment_is_told_line_by_line():
    recorded = provenance([], 0)
    assert environment_changes(recorded) == []
    numpy = recorded["packages"]["numpy"]
    recorded["environment"] = {**recorded["environment"], "packages": {"numpy": "1.0", "gone": "2"}}
    changes = environment_changes(recorded)
    assert f"numpy: 1.0 when the run began, {numpy} now" in changes
    assert "gone: 2 when the run began, missing now" in changes


def test_the_commit_of_a_checkout_is_recorded_and_whether_it_was_changed(checkout: Path):
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "__init__.py").write_text("changed = 1")
    assert git_state(checkout) == {"commit": commit, "dirty": True}


def test_a_hook_of_another_repository_does_not_mislead(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert git_state(checkout)["dirty"] is False


def test_a_package_installed_inside_somebodys_repository_has_no_commit(checkout: Path):
    installed = checkout.parent.parent / ".venv" / "lib" / "chiasma"
    installed.mkdir(parents=True)
    assert git_state(installed) == {"commit": None, "dirty": None}


def test_a_package_outside_any_repository_has_no_commit(tmp_path: Path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}


def test_provenance_does_not_import_torch():
    code = (
        "import sys; from chiasma.store.provenance import provenance; provenance([], 0); print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer == "False\n"
