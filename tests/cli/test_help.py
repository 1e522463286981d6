"""The command line before it does anything: help, typing errors, start-up time."""

import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from chiasma.cli.main import app, spread_overrides

VERBS = [
    "evolve",
    "train",
    "meta-train",
    "resume",
    "evaluate",
    "predict",
    "features",
    "show",
    "report",
    "compare",
    "list runs",
    "list components",
    "data check",
    "data show",
    "config show",
    "config schema",
    "doctor",
]


def chiasma(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    result = chiasma(*verb.split(), "--help")
    assert result.exit_code == 0
    assert f"chiasma {verb}" in result.output.split("Example")[1]


def test_help_is_shown_within_a_second():
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "chiasma", "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - begun)
    assert "evolve" in done.stdout
    assert min(seconds) < 1.0


@pytest.mark.parametrize("module", ["chiasma", "chiasma.cli.main"])
def test_importing_the_command_line_does_not_import_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_a_verb_help_is_shown():
    result = chiasma()
    assert result.exit_code == 2
    assert "evolve" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evolv"], "No such command 'evolv'. Did you mean 'evolve'"),
        (["data", "chek"], "No such command 'chek'. Did you mean 'check'?"),
        (["evolve", "--bugdet", "3m"], "No such option: --bugdet"),
        (["show"], "Missing argument 'RUN#K'."),
        (["evolve", "--seed", "many"], "Invalid value for '--seed'"),
    ],
)
def test_a_typing_error_is_one_line_with_code_2(words, message):
    result = chiasma(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("chiasma: error: ")
    assert result.stderr.count("\n") == 1


def test_several_settings_may_follow_one_set():
    words = ["train", "--set", "a.b=1", "c=2", "data.csv", "--seed", "3", "--set", "d=4"]
    expected = ["train", "--set", "a.b=1", "--set", "c=2", "data.csv", "--seed", "3", "--set", "d=4"]
    assert spread_overrides(words) == expected


def test_what_follows_another_option_is_not_a_setting():
    assert spread_overrides(["--set", "a=1", "--text", "b=2"]) == ["--set", "a=1", "--text", "b=2"]


def test_what_follows_two_dashes_is_left_alone():
    assert spread_overrides(["--set", "a=1", "--", "b=2"]) == ["--set", "a=1", "--", "b=2"]
