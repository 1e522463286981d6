"""Ctrl-C: the first ends cleanly and says how to go on, the second ends at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import SETTINGS, invoke

LONG = ("--config", "quick", "--workers", "1", "--set", *SETTINGS, "train.epochs=100000", "train.evaluations=100000")


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command line in its own process group, and end whatever is left of it."""
    command = [sys.executable, "-m", "chiasma", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read standard error up to a line that holds ``words``."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if words in line:
            return seen
    raise AssertionError(seen)


@pytest.mark.slow
def test_the_first_interrupt_of_a_training_saves_and_says_how_to_resume(tmp_path):
    with running("train", *LONG, "--run-folder", str(tmp_path)) as process:
        wait_for(process, "on steer")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert process.returncode == 130
    assert f"Continue: chiasma resume {run}" in errors
    assert list((run / "checkpoints").glob("step-*"))
    assert "stopped" in invoke("list", "runs", "--run-folder", str(tmp_path)).stdout


@pytest.mark.slow
def test_the_first_interrupt_of_a_search_ends_with_the_best_so_far(tmp_path):
    words = ("evolve", "--config", "quick", "--workers", "1", "--set", *SETTINGS, "--budget", "500")
    with running(*words, "--run-folder", str(tmp_path)) as process:
        wait_for(process, "generation 1")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=100)
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert process.returncode == 130
    assert f"chiasma resume {run}" in errors
    assert (run / "report.html").is_file()
    assert list((run / "model").glob("step-*"))


@pytest.mark.slow
def test_the_second_interrupt_ends_at_once_and_leaves_no_process(tmp_path):
    words = ("evolve", "--config", "quick", "--workers", "2", "--set", *SETTINGS, "train.epochs=5000", "--budget", "1h")
    with running(*words, "--run-folder", str(tmp_path)) as process:
        wait_for(process, "run evolve")
        time.sleep(2)
        children = _children(process.pid)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        seconds = time.monotonic() - begun
    assert process.returncode == 130
    assert seconds < 10
    assert children
    time.sleep(0.5)
    assert not [child for child in children if _alive(child)]


def _children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    if status.exists():
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def compiling(folder: Path, *, script: str) -> subprocess.CompletedProcess[str]:
    """Train with a C++ compiler that does what a script says, and return what came of it."""
    compiler = folder / "c++"
    compiler.write_text(f'#!/bin/sh\ncase "$1" in -v | --version) exec c++ "$@";; esac\n{script}\nexit 1\n')
    compiler.chmod(0o700)
    words = ("train", "--set", *SETTINGS, "run.compile=true", "--run-folder", str(folder / "runs"))
    return subprocess.run(
        [sys.executable, "-m", "chiasma", *words],
        env={**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")},
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_a_compiler_that_fails_is_one_line_with_the_remedy(tmp_path):
    done = compiling(tmp_path, script="head -c 200000 /dev/zero | tr '\\\\0' x >&2")
    assert done.returncode == 1
    assert "compiling: the first step takes long" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("chiasma: error:")]
    assert line.endswith("Do without: --set run.compile=false.")
    assert len(line) < 500
    assert len(done.stderr) < 2000
