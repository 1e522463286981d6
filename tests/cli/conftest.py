"""Runs that the tests of the command line share, in folders of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from chiasma.cli.main import app

SETTINGS = ("data.rows=320", "train.epochs=1", "model.encoders.text.kind=ngram")
SMALL = ("--config", "quick", "--workers", "1", "--set", *SETTINGS)


def invoke(*words: str) -> Result:
    """Run one command line in this process."""
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="session", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep runs, prepared data and the ledger of this session apart from the user's own."""
    folder = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RUNS", "CACHE", "STATE"):
            patch.setenv(f"CHIASMA_{name}", str(folder / name.lower()))
        yield folder


@pytest.fixture(scope="session")
def trained(places: Path) -> Path:
    """Return the run of a short training."""
    result = invoke("train", *SMALL, "--name", "shared")
    assert result.exit_code == 0, result.output
    return next(path for path in (places / "runs").iterdir() if "shared" in path.name)


@pytest.fixture(scope="session")
def evolved(places: Path) -> tuple[Path, Result]:
    """Return the run of a short search, and what it printed."""
    result = invoke("evolve", *SMALL, "--name", "search", "--budget", "3")
    assert result.exit_code == 0, result.output
    return next(path for path in (places / "runs").iterdir() if "search" in path.name), result
