"""Hydra's command line: the same settings, trainings and errors as those of ``chiasma train``."""

import copy
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import chiasma.hydra as entry
from chiasma.experiment.compose import load_config, preset_names
from chiasma.experiment.config import RunConfig
from chiasma.store.folders import list_runs
from tests.cli.conftest import SETTINGS
from tests.cli.test_interrupting import wait_for

SMALL = ("--config-name", "quick", *SETTINGS, "train.evaluations=1")

Answer = tuple[int, str, str]


@pytest.fixture
def hydra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Answer]:
    """Return a function that runs a command line in an empty folder, and returns exit code, output and errors."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("CHIASMA_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv(entry.FULL_ERROR, raising=False)

    def run(*words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["hydra.py", *words])
        monkeypatch.setenv(entry.FULL_ERROR, "0")
        with pytest.raises(SystemExit) as left:
            entry.main()
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err

    return run


def settings(*words: str, name: str = "default") -> RunConfig:
    """Return the settings of a job, without running it."""
    changed, _ = entry.rewritten(words)
    entry.store_configs("runs")
    with initialize(version_base="1.3", config_path=None):
        HydraConfig.instance().set_config(compose(name, overrides=changed, return_hydra_config=True))
        return entry.job_config()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_config_name(name: str):
    assert settings(name=name) == load_config(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("default", ["optim.lr=3e-4", "run.seed=7"]),
        ("cross_attention", ["model.fusion.kind=gated"]),
        ("concat", ["model.fusion.kind=bilinear", "model.fusion.rank=8"]),
        ("default", ["optim.schedule.kind=one_cycle", "optim.schedule.rise=0.2"]),
        ("default", ["model.encoders.text=null", "data.columns.text=[question,choices]"]),
        ("growth", ["growth.births=random", "growth.warm_up=0"]),
        ("default", ["tracking.wandb.enabled=true", "tracking.wandb.mode=offline", "tracking.wandb.tags=[a,b]"]),
        ("quick", ["run.budget=3m"]),
    ],
)
def test_settings_are_those_of_chiasma_train(name: str, words: list[str]):
    assert settings(*words, name=name) == load_config(name, overrides=words)


def test_presets_can_be_laid_over_each_other():
    assert settings("preset=cifar10_full") == load_config("cifar10_full")
    assert settings("+preset=gated", name="concat") == load_config("gated")
    both = settings("+preset=[quick,growth]")
    assert (both.train.epochs, both.train.evaluations, both.growth is None) == (2, 30, False)


def test_looking_at_presets_neither_copies_nor_changes_them():
    """Hydra copies what it is told of again and again; with each preset in it, ``--help`` takes three times as long."""
    settings()
    told = ConfigStore.instance().repo["growth.yaml"].node
    before = OmegaConf.to_yaml(told)
    assert settings("growth.warm_up=0", name="growth").growth.warm_up == 0
    assert OmegaConf.to_yaml(told) == before
    known = ConfigStore.instance().repo
    assert copy.deepcopy(ConfigStore.instance()).repo is known


def test_a_rate_in_scientific_notation_is_a_number():
    assert settings("optim.lr=3e-4").optim.lr == 3e-4


def test_a_setting_can_be_taken_back():
    assert settings("~optim.lr", name="cross_attention") == load_config("cross_attention", overrides=["optim.lr=3e-3"])


def test_ones_own_configs_build_on_presets(tmp_path: Path, hydra: Callable[..., Answer]):
    (tmp_path / "mine.yaml").write_text("defaults: [cross_attention, _self_]\noptim: {lr: 5e-4}\n")
    code, out, _ = hydra("--config-dir", str(tmp_path), "--config-name", "mine", "--cfg", "job")
    shown = yaml.safe_load(out)
    assert code == 0
    assert (shown["optim"]["lr"], shown["model"]["fusion"]["kind"]) == (5e-4, "cross_attention")


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("optim.epochs=10", "++train.epochs=10"),
        ("data.batch_size=16,32", "++train.batch_size=16,32"),
        ("wandb.enabled=true", "++tracking.wandb.enabled=true"),
        ("wandb={enabled: true}", "++tracking.wandb={enabled: true}"),
        ("+optim.epochs=10", "+train.epochs=10"),
        ("~optim.epochs", "~train.epochs"),
    ],
)
def test_names_of_document_000_are_understood_and_said(word: str, becomes: str):
    changed, notes = entry.rewritten([word])
    assert changed == [becomes]
    assert re.fullmatch(r"\w+(\.\w+)* is called (train|tracking)\.[\w.]+ here", notes[0])


@pytest.mark.parametrize("word", ["-m", "--cfg", "job", "hydra.sweep.dir=x", "hydra/launcher=basic", "optim.epochs_=1"])
def test_other_words_are_left_alone(word: str):
    changed, notes = entry.rewritten([word])
    assert [each.lstrip("+") for each in changed] == [word]
    assert notes == []


def test_aliases_lead_to_settings_that_exist():
    known = RunConfig().to_dict()
    for name in entry.ALIASES.values():
        value = known
        for part in name.split("."):
            value = value[part]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.lrr=1"], "optim.lrr: unknown key. Did you mean 'lr'?"),
        (["optimm.lr=1"], "optimm: unknown key. Did you mean 'optim'?"),
        (["optimm=1"], "optimm: unknown key. Did you mean 'optim'?"),
        (["optim.lr=-1"], "optim.lr: Input should be greater than 0, but got -1."),
        (["model.fusion.kind=telepathy"], "model.fusion.kind: 'telepathy' is unknown."),
        (["optim.lr=${oc.env:NOT_THERE_AT_ALL}"], "NOT_THERE_AT_ALL"),
        (["data.source=digit_claim"], "Did you mean 'digit_claims'"),
        (["preset=groth"], "groth"),
        (["--config-name", "groth"], "groth"),
        (["optim.lr=1e-3,3e-3"], "To sweep over it, add --multirun"),
        (["optim.lr=[1"], "optim.lr=[1"),
        (["-r", "-m"], "Only one of --run, --multirun"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(hydra: Callable[..., Answer], words: list[str], said: str):
    code, out, errors = hydra(*words)
    (line,) = errors.splitlines()
    assert (code, out) == (1, "")
    assert line.startswith("chiasma: error: ")
    assert said in line


def test_a_missing_hydra_is_one_line_with_the_remedy(hydra: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "hydra", None)
    code, _, errors = hydra()
    assert (code, errors) == (1, "chiasma: error: python -m chiasma.hydra needs Hydra: pip install 'chiasma[hydra]'\n")


def test_a_training_is_a_run_and_nothing_is_scattered(hydra: Callable[..., Answer], tmp_path: Path):
    code, out, errors = hydra(*SMALL, "optim.epochs=2", "data.batch_size=32")
    (run,) = list_runs(tmp_path / "runs")
    config = json.loads((run / "config.json").read_text())
    assert code == 0
    assert (config["train"]["epochs"], config["train"]["batch_size"], config["data"]["rows"]) == (2, 32, 320)
    assert "optim.epochs is called train.epochs here" in errors
    assert str(run / "report.html") in out
    assert json.loads((run / "provenance.json").read_text())["command"][-1] == "data.batch_size=32"
    assert list((tmp_path / "here").iterdir()) == []
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]


def test_a_sweep_trains_a_run_for_each_value_and_goes_on_after_a_failure(hydra: Callable[..., Answer], tmp_path: Path):
    code, out, errors = hydra("-m", *SMALL, "train.accumulation=3,1,2", "optim.lr=1e-3")
    runs = list_runs(tmp_path / "runs")
    assert [json.loads((run / "config.json").read_text())["train"]["accumulation"] for run in runs] == [1, 2]
    assert code == 1
    assert "chiasma: error: train: batch_size must be divisible by accumulation" in errors
    assert "train.accumulation=2 optim.lr=0.001" in next(
        line for line in errors.splitlines() if line.startswith("job 2: ")
    )
    assert out.count("report.html") == 2
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert [path.name for path in sweep.iterdir()] == ["multirun.yaml"]
    assert list((tmp_path / "here").iterdir()) == []


def test_the_composed_tree_can_be_seen(hydra: Callable[..., Answer]):
    code, out, _ = hydra("--cfg", "job", "+preset=cross_attention", "optim.epochs=10")
    shown = yaml.safe_load(out)
    assert code == 0
    assert set(shown) == set(RunConfig.model_fields)
    assert (shown["train"]["epochs"], shown["model"]["fusion"]["direction"]) == (10, "both")


def test_help_names_presets_aliases_and_settings(hydra: Callable[..., Answer]):
    code, out, _ = hydra("--help")
    assert code == 0
    assert re.search(r"preset: .*cross_attention.*growth", out)
    assert "optim.epochs for train.epochs" in out
    assert "batch_size: 64" in out
    assert "A trunk whose members are born" in out


def test_it_runs_as_a_module_and_shows_a_traceback_when_asked_for(tmp_path: Path):
    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        import os

        command = [sys.executable, "-m", "chiasma.hydra", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **environment})

    failed = run("optim.lrr=1", HYDRA_FULL_ERROR="1")
    assert failed.returncode == 1
    assert "Traceback" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("chiasma: error: optim.lrr: unknown key.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupt_ends_a_sweep_and_says_how_to_go_on(tmp_path: Path):
    words = ["-m", *SMALL, "train.epochs=100000", "train.evaluations=100000", "run.seed=0,1"]
    command = [sys.executable, "-m", "chiasma.hydra", *words, f"run.folder={tmp_path}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1, cwd=tmp_path
    ) as process:
        try:
            wait_for(process, "on steer")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    (run,) = list_runs(tmp_path)
    assert process.returncode == 130
    assert f"Continue: chiasma resume {run}" in errors
