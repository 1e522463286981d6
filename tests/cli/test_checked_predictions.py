"""``predict`` and ``evaluate`` say what the checks found, and ``predict`` fails where a required one did."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chiasma.experiment.checks import CheckRules
from chiasma.experiment.saved import SavedModel
from tests.cli.conftest import invoke


@pytest.fixture(scope="module")
def strict(trained: Path, tmp_path_factory) -> Path:
    """Return the trained model, but one that must not say the same of every row."""
    folder = tmp_path_factory.mktemp("strict") / "model"
    saved = SavedModel.load(trained / "model", device="cpu")
    rules = CheckRules(required=("class_distribution",))
    replace(saved, expectation=saved.expectation.model_copy(update={"rules": rules, "answers": {}})).save(folder)
    return folder


@pytest.fixture
def alike(tmp_path) -> str:
    lines = "".join(f"{k},this is a zero\n" for k in range(30))
    (tmp_path / "rows.csv").write_text(f"id,text\n{lines}")
    return str(tmp_path / "rows.csv")


def test_predict_fails_where_a_required_check_does_and_the_predictions_are_there(strict, alike, tmp_path):
    out = tmp_path / "out.csv"
    result = invoke("predict", str(strict), alike, "-o", str(out))
    assert result.exit_code == 1
    assert "failed: class_distribution: 100% of the rows are" in result.stderr
    assert "Accept them with --relax" in result.stderr
    assert len(out.read_text().splitlines()) == 31
    written = {check["name"]: check["passed"] for check in json.loads((tmp_path / "out.checks.json").read_text())}
    assert written["class_distribution"] is False
    assert written["no_null_predictions"] is True


def test_a_failing_check_can_be_relaxed(strict, alike):
    result = invoke("predict", str(strict), alike, "--relax")
    assert result.exit_code == 0
    assert "failed: class_distribution" in result.stderr


def test_what_is_not_required_only_warns(trained, alike):
    result = invoke("predict", str(trained), alike)
    assert result.exit_code == 0
    assert "warning: drift_from_select" in result.stderr


def test_a_training_and_an_evaluation_show_their_checks(trained):
    found = {check["name"] for check in json.loads((trained / "results.json").read_text())["checks"]}
    shown = invoke("evaluate", str(trained), "--on", "select").stdout
    assert {"better_than_random", "threshold_is_used", "duplicate_predictions"} <= found
    assert all(name in shown for name in found)
