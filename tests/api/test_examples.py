"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKLY = ("run.workers=1", "model.dim=16", "train.epochs=4", "evaluate.seeds=1", "evaluate.finalists=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "argument", "said"),
    [
        ("train_on_your_table.py", ("digit_claims", "0.1"), "on select"),
        ("search_in_python.py", ("2", *QUICKLY), "accuracy on fresh rows"),
    ],
)
def test_an_example_runs(name, argument, said, tmp_path):
    places = {f"CHIASMA_{place}": str(tmp_path / place) for place in ("RUNS", "CACHE", "STATE")}
    command = [sys.executable, str(EXAMPLES / name), *argument]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **places}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
