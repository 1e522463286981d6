"""A training in W&B, offline and for real: what it is told, what it may not do, and what happens when it fails."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import wandb

from chiasma.core.errors import ConfigError
from chiasma.experiment import tracking, train_run
from chiasma.experiment.attention_search import search_attention
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.evolve import evolve
from chiasma.experiment.results import RunResult
from chiasma.store.folders import list_runs
from chiasma.store.run import RunStore
from tests.experiment.wandb_files import Sitting, sittings

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("tracking")

CANARY = "0123456789abcdef0123456789abcdef01234567"
TRACKED = ("tracking.wandb.enabled=true", "tracking.wandb.mode=offline", "tracking.every_steps=2")
SMALL = ("data.rows=320", "train.epochs=2", "train.evaluations=2", "model.encoders.text.kind=ngram", "run.device=cpu")


class Console(SilentConsole):
    """Remembers what is said, and has the user press Ctrl-C when a line holds certain words."""

    def __init__(self, stop_at: str = "no line") -> None:
        self.said: list[str] = []
        self.stop_at = stop_at

    def say(self, text: str) -> None:
        self.said.append(text)

    @property
    def interrupted(self) -> bool:
        return any(self.stop_at in line for line in self.said)


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory):
    """Keep W&B apart from the user's own login and settings, and the working directory empty."""
    home = tmp_path_factory.mktemp("home")
    (home / "here").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        patch.setenv("WANDB_API_KEY", CANARY)
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.chdir(home / "here")
        yield home


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def fresh():
    """Have W&B read its environment anew, for it does so once a process."""
    wandb.teardown()
    yield
    wandb.teardown()


def settings(folder: Path, *overrides: str, name: str = "quick") -> RunConfig:
    return load_config(name, overrides=[*SMALL, *TRACKED, f"run.folder={folder}", *overrides])


@pytest.fixture(scope="module")
def shown(folder: Path) -> tuple[RunResult, Sitting, Console]:
    """Return a training that was shown, and what was shown of it."""
    console = Console()
    result = train_run.train(settings(folder, "run.name=shown"), console=console, command=["chiasma", "train"])
    (sitting,) = sittings(result.run_path)
    return result, sitting, console


@pytest.fixture(scope="module")
def grown(folder: Path) -> tuple[RunResult, list[Sitting]]:
    """Return a growing training that was stopped by Ctrl-C and resumed, and what was shown of it."""
    rules = ("growth.births=random", "growth.learned=0.0", "train.evaluations=8", "train.epochs=4")
    config = settings(folder, *rules, "run.name=grown", "model.dim=16", name="growth")
    result = train_run.train(config, console=Console("step 8/"))
    assert result.stopped == "interrupted"
    result = train_run.resume(result.run_path, console=Console())
    return result, sittings(result.run_path)


def test_w_and_b_sees_the_figures_of_the_run(shown):
    result, sitting, _ = shown
    rows = {row["_step"]: row for row in sitting.rows}
    for row in result.results.history:
        seen = rows[int(row["step"])]
        assert (seen["step"], seen["epoch"], seen["val/accuracy"]) == (row["step"], row["epoch"], row["accuracy"])
        assert {"val/best_auc", "val/best_accuracy", "train/loss_mean", "train/gradient_norm"} <= set(seen)
    assert [step for step, row in rows.items() if "train/loss" in row] == sorted(rows)
    assert set(range(2, result.results.budget["steps"] + 1, 2)) <= set(rows)
    assert (sitting.axes["train/*"], sitting.axes["val/*"]) == ("step", "epoch")


def test_w_and_b_sees_the_settings_the_data_and_the_result(shown):
    result, sitting, _ = shown
    assert sitting.config["train"] == json.loads((result.run_path / "config.json").read_text())["train"]
    with RunStore.open(result.run_path) as store:
        assert sitting.config["chiasma"]["fingerprint"] == store.events("dataset")[0].data["fingerprint"]
        assert [event.data for event in store.events("tracker")] == [{"name": "W&B", "run": sitting.id}]
    assert (sitting.config["chiasma"]["run"], sitting.name) == (result.run_path.name, result.run_path.name)
    assert sitting.summary["select/accuracy"] == result.results.arms[0].select["accuracy"]
    assert (sitting.summary["steps"], sitting.summary["stopped"]) == (result.results.budget["steps"], "finished")
    assert sitting.exit_code == 0


def test_w_and_b_is_sent_the_settings_and_these_words_about_the_run_and_nothing_else(shown):
    _, sitting, _ = shown
    assert set(sitting.config) - {"_wandb"} == {*RunConfig.model_fields, "chiasma"}
    assert set(sitting.config["chiasma"]) == {"run", "fingerprint", "version", "commit", "command"}
    assert sitting.config["chiasma"]["command"] == "chiasma train"


def test_the_user_is_told_where_to_look(shown):
    result, _, console = shown
    (line,) = [line for line in console.said if line.startswith("W&B: ")]
    assert re.fullmatch(rf"W&B: offline; send it with: wandb sync {result.run_path}/wandb/offline-run-\S+", line)


def test_nothing_is_written_outside_the_run(shown, places: Path):
    result, _, _ = shown
    assert (result.run_path / "wandb").is_dir()
    assert sorted(path.name for path in places.rglob("*") if path.is_file()) == []


def test_no_key_and_no_code_is_written_down(shown):
    result, _, _ = shown
    files = [path for path in result.run_path.rglob("*") if path.is_file()]
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    names = {path.name for path in files if "wandb" in path.parts}
    assert names & {"wandb-metadata.json", "diff.patch", "requirements.txt", "output.log", "code"} == set()


def test_a_resumed_training_is_the_same_run_and_no_step_comes_twice(grown):
    result, parts = grown
    assert len({part.id for part in parts}) == 1
    first, second = ([row["_step"] for row in part.rows] for part in parts)
    assert first == sorted(set(first))
    assert first[-1] < second[0]
    evaluated = [row["_step"] for part in parts for row in part.rows if "val/accuracy" in row]
    assert evaluated == [int(row["step"]) for row in result.results.history]
    assert (parts[0].exit_code, parts[1].exit_code) == (255, 0)


def test_births_and_deaths_are_shown_with_their_reasons(grown):
    result, parts = grown
    told = [line for part in parts for row in part.rows if "event" in row for line in row["event"].splitlines()]
    happened = [f"{event['event']} of {event['name']}: {event['reason']}" for event in result.results.growth["events"]]
    assert told == happened
    assert happened
    assert parts[-1].summary["growth/events"]["nrows"] == len(happened)


def test_the_environment_speaks_where_the_settings_are_silent(monkeypatch: pytest.MonkeyPatch):
    config = load_config(overrides=["tracking.wandb.enabled=true"])
    assert tracking.wandb_mode(config.tracking.wandb) == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.wandb_mode(config.tracking.wandb) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.wandb_mode(config.tracking.wandb) is None
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ConfigError, match="must be online, offline or disabled, but it is 'sometimes'"):
        tracking.wandb_mode(config.tracking.wandb)


def test_a_missing_package_is_said_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest)
    )
    with pytest.raises(ConfigError, match=r"pip install 'chiasma\[tracking\]'"):
        train_run.train(settings(tmp_path), console=Console())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_login_is_said_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh):
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(ConfigError, match=r"No API key configured.*WANDB_API_KEY, or .*tracking\.wandb\.mode=offline"):
        train_run.train(settings(tmp_path, "tracking.wandb.mode=online"), console=Console())
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_ends_a_new_run_but_not_a_resumed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh
):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("chiasma.train.wandb_tracker.INIT_SECONDS", 2.0)
    with pytest.raises(ConfigError, match=r"W&B cannot be told .*tracking\.wandb\.mode=offline"):
        train_run.train(settings(tmp_path, "tracking.wandb.mode=online"), console=Console())
    (run,) = list_runs(tmp_path)
    with RunStore.open(run) as store:
        assert store.status == "failed"
    result = train_run.resume(run, console=Console())
    assert result.stopped == "finished"
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    warned = next(line["message"] for line in log if line["level"] == "warning")
    assert warned.startswith("The training goes on without W&B. W&B cannot be told")


@pytest.mark.parametrize("verb", [evolve, search_attention])
def test_searches_refuse_trackers(verb, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"tracking\.wandb\.enabled: trackers are shown the one training of"):
        verb(settings(tmp_path), console=Console())
    assert list(tmp_path.iterdir()) == []


def run_in_background(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    words = ["train", "--config", "quick", "--run-folder", str(folder), "--set", *SMALL, *TRACKED, *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "chiasma", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    assert any(words in line for line in process.stderr)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_the_run_there_too(tmp_path: Path):
    with run_in_background(tmp_path, "train.epochs=100000", "train.evaluations=100000") as process:
        wait_for(process, "on steer")
        # As a terminal does: to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    (run,) = list_runs(tmp_path)
    (sitting,) = sittings(run)
    assert process.returncode == 130
    assert "Continue: chiasma resume" in errors
    assert "wandb:" not in errors
    assert (sitting.exit_code, sitting.summary["stopped"]) == (255, "interrupted")


@pytest.mark.slow
def test_a_training_whose_tracker_dies_goes_on_with_one_warning(tmp_path: Path):
    with run_in_background(tmp_path, "train.epochs=20", "train.evaluations=20") as process:
        wait_for(process, "on steer")
        (core,) = (
            child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "wandb-core"
        )
        core.kill()
        out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert errors.count("is told nothing more") == 1
    assert "report.html" in out


@pytest.mark.slow
def test_a_training_that_is_killed_is_shown_once_after_all(tmp_path: Path):
    with run_in_background(tmp_path, "train.epochs=24", "train.evaluations=24") as process:
        wait_for(process, "step 20/")
        process.kill()
    time.sleep(1)
    (run,) = list_runs(tmp_path)
    train_run.resume(run, console=Console())
    steps = [row["_step"] for sitting in sittings(run) for row in sitting.rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == 96
