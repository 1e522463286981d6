"""A training with a growing trunk, from the settings to the report: what is kept and what is warned of."""

import json
from pathlib import Path

import pytest

from chiasma.core.spec import replace_at
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.evaluate.tasks import Task
from chiasma.evaluate.trial import run_trial
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.finals import ArmDesign, TrainedArm, Training
from chiasma.experiment.results import RunResult
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.summary import trained_design
from chiasma.experiment.train_run import train
from chiasma.train.design import Design
from tests.evaluate.test_trial import GROWING

SMALL = ("data.rows=320", "train.epochs=2", "train.evaluations=8", "model.dim=16", "run.device=cpu")
EAGER = ("growth.births=random", "growth.learned=0", "growth.probation=1", "optim.lr=1e-9")


class Told(SilentConsole):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, list[str]]:
    """Return a training whose steps are too short to improve on the first, over one token, and what was said."""
    folder = tmp_path_factory.mktemp("runs")
    overrides = [*SMALL, *EAGER, "model.fusion.pool=mean", f"run.folder={folder}"]
    console = Told()
    result = train(load_config("growth", overrides=overrides), console=console)
    assert result is not None
    return result, console.lines


def test_the_console_warns_once_of_members_over_one_token(pooled):
    warnings = [line for line in pooled[1] if line.startswith("warning")]
    assert len(warnings) == 1
    assert "residual_convolution_1, transformer_1 are linear maps" in warnings[0]


def test_results_console_and_saved_model_tell_of_the_same_population(pooled):
    result, lines = pooled
    kept = result.results.growth["kept"]
    members = SavedModel.load(Path(result.model_path), device="cpu").model.spec.trunk.members
    assert kept["members"] == {name: place.role for name, place in members.items()}
    best = max(result.results.history, key=lambda row: row[result.results.metric])
    assert kept["step"] == best["step"]
    (words,) = (line for line in lines if line.startswith("The model that is kept is that of step"))
    assert words in result.results.notes
    assert all(name in words for name in members)
    assert any(event["undone"] for event in result.results.growth["events"])
    page = (result.run_path / "report.html").read_text()
    assert "(undone: after the step that is kept)" in page
    assert json.loads((result.run_path / "results.json").read_text())["growth"]["kept"]["members"] == kept["members"]


def test_the_design_that_a_search_reports_is_the_one_that_grew(tmp_path):
    data, _ = prepare(DataSpec(rows=400), seed=0, cache=tmp_path / "cache")
    job = Task(dataset=str(data.folder), metric="accuracy").job("a", GROWING, seed=1, keep_checkpoint=str(tmp_path))
    arm = ArmDesign("finalist 1", "finalist", "", 1, GROWING)
    best = TrainedArm(arm, (Training(tmp_path, 0, run_trial(job, data), 1.0),))
    grown = Design.from_dict(trained_design(best))
    assert len(grown.model.trunk.members) > 1
    assert replace_at(grown, "model.trunk", GROWING.model.trunk) == GROWING
