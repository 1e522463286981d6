"""Every pipeline of document 003 on a few rows of the built-in data: what it leaves, and that each runs alone."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chiasma.core.errors import ConfigError, DataError
from chiasma.store.folders import ledger_folder
from chiasma.store.openings import OpeningLedger
from tests.experiment.mlflow_runs import client_of, runs_of
from tests.pipelines.projects import ROOT, kedro_run, make_project, outputs, promised

pytestmark = [
    # One process runs them all: they build on what the others leave, and kedro-mlflow is one for the process.
    pytest.mark.xdist_group("pipelines"),
    # MLflow's own tables, when kedro-mlflow opens them.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder that holds MLflow's file, which the environment names."""
    folder = tmp_path_factory.mktemp("kedro")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def project(place: Path) -> Path:
    """Return a project in which ``vilbert_train``, the default, has run."""
    made = make_project(place / "project")
    kedro_run(made, "__default__")
    return made


def read(project: Path, name: str) -> Any:
    return json.loads((project / "data" / name).read_text())


def figures(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return what an evaluation measured, without where the model lay and how often test had been opened."""
    return {name: value for name, value in evaluation.items() if name not in ("model", "opening")}


def test_training_leaves_data_tokens_model_report_and_figures(project: Path):
    assert outputs(project) == promised("data_processing") | promised("train")
    processed, training = (
        read(project, name) for name in ("03_primary/processed_data.json", "08_reporting/vilbert/training.json")
    )
    assert training["fingerprint"] == processed["fingerprint"]
    assert sum(processed["rows"].values()) > 180
    select = read(project, "08_reporting/vilbert/select_metrics.json")
    assert select["split"] == "select"
    assert select["metrics"]["auroc"]["value"] == pytest.approx(training["select"]["auroc"])
    assert len(read(project, "08_reporting/vilbert/training_history.json")) == 2


def test_mlflow_shows_a_pipeline_as_one_run_with_all_that_document_003_lists(project: Path, place: Path):
    (run,) = [each for each in runs_of(place / "mlflow.db") if each.info.run_name == "__default__"]
    assert run.info.status == "FINISHED"
    listed = {"train_loss", "val_loss", "val_auroc", "val_accuracy", "val_f1"}
    listed |= {f"select_{name}" for name in ("auroc", "accuracy", "precision", "recall", "f1", "TN", "FP", "FN", "TP")}
    listed |= {"select_check_no_null_predictions", "parameters", "parameters_in_all"}
    assert listed <= set(run.data.metrics)
    assert {"device", "samples.train", "optim.lr", "train.batch_size", "vilbert.preset"} <= set(run.data.params)
    names = {file.path for file in client_of(place / "mlflow.db").list_artifacts(run.info.run_id)}
    assert {"report.html", "config.json", "training_history.json", "select_metrics.json"} <= names
    model = client_of(place / "mlflow.db").search_logged_models([run.info.experiment_id])
    assert run.info.run_id in [each.source_run_id for each in model]


@pytest.mark.parametrize("variant", ["vilbert_frcnn", "vilbert_vg"])
def test_every_variant_has_places_of_its_own(project: Path, variant: str):
    before = outputs(project)
    kedro_run(project, f"{variant}_train")
    assert outputs(project) - before == promised("train", variant)


def test_validation_opens_the_test_split_and_says_so(project: Path, caplog: pytest.LogCaptureFixture):
    fingerprint = read(project, "03_primary/processed_data.json")["fingerprint"]
    before = OpeningLedger(ledger_folder()).count(fingerprint)
    with caplog.at_level("INFO", logger="chiasma.pipelines"):
        kedro_run(project, "vilbert_validate")
    assert outputs(project) >= promised("validate")
    validated = read(project, "08_reporting/vilbert/validation_metrics.json")
    assert (validated["test"]["split"], validated["test"]["opening"]) == ("test", before)
    assert OpeningLedger(ledger_folder()).count(fingerprint) == before + 1
    assert "This test split had" in caplog.text


def test_validation_after_a_fresh_checkout_gives_the_figures_of_the_training(project: Path, place: Path):
    kedro_run(project, "model_validation")
    here = read(project, "08_reporting/vilbert/validation_metrics.json")
    moved = make_project(place / "elsewhere")
    shutil.copytree(project / "data", moved / "data", ignore=shutil.ignore_patterns("02_intermediate", "runs"))
    (moved / "data/08_reporting/vilbert/validation_metrics.json").unlink()
    hidden = project.rename(place / "hidden")
    try:
        kedro_run(moved, "model_validation")
    finally:
        hidden.rename(project)
    there = read(moved, "08_reporting/vilbert/validation_metrics.json")
    assert figures(there["select"]) == figures(read(project, "08_reporting/vilbert/select_metrics.json"))
    assert figures(there["test"]) == figures(here["test"])


@pytest.mark.parametrize("name", ["vilbert_inference_local", "model_inference_local"])
def test_inference_predicts_every_row_of_select(project: Path, name: str):
    for path in promised("inference_local"):
        (project / "data" / path).unlink(missing_ok=True)
    kedro_run(project, name)
    with open(project / "data/07_model_output/vilbert/predictions.csv") as file:
        rows = list(csv.DictReader(file))
    found = read(project, "08_reporting/vilbert/inference_metrics.json")
    assert len(rows) == found["examples"] == sum(found[name] for name in ("TN", "FP", "FN", "TP"))
    assert found["accuracy"] == pytest.approx((found["TN"] + found["TP"]) / len(rows))
    assert sum(row["prediction"] == "true" for row in rows) == found["FP"] + found["TP"]


@pytest.mark.parametrize("name", ["vilbert_inference", "model_inference"])
def test_pretrained_inference_uses_no_training_of_ours(project: Path, name: str):
    model = project / "data/06_models/vilbert"
    shutil.rmtree(model / "pretrained", ignore_errors=True)
    hidden = (model / "model").rename(model / "hidden")
    try:
        kedro_run(project, name)
    finally:
        hidden.rename(model / "model")
    assert outputs(project) >= promised("inference")
    with open(project / "data/07_model_output/vilbert/pretrained_predictions.csv") as file:
        pretrained = [row["true"] for row in csv.DictReader(file)]
    kedro_run(project, "model_inference_local")
    with open(project / "data/07_model_output/vilbert/predictions.csv") as file:
        assert pretrained != [row["true"] for row in csv.DictReader(file)]


def test_model_training_trains_on_what_is_processed_and_refuses_other_data(project: Path):
    kedro_run(project, "model_training", vilbert={"preset": "concat", "extractor": "pixels", "set": short()})
    assert read(project, "08_reporting/vilbert/training.json")["preset"] == "concat"
    with pytest.raises(DataError, match="process them again with kedro run --pipeline=data_processing"):
        kedro_run(project, "model_training", data={"source": "digit_claims:hard", "rows": 320})


def short() -> dict[str, Any]:
    return {"model": {"dim": 16}, "train": {"epochs": 1, "evaluations": 1}, "evaluate": {"resamples": 200}}


def test_what_is_not_there_yet_says_what_makes_it(place: Path):
    empty = make_project(place / "empty")
    with pytest.raises(Exception, match="is not there yet: run `kedro run --pipeline=vilbert_train` first"):
        kedro_run(empty, "model_validation")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evolve", "search_attention", "search_fusion"])
def test_searches_leave_their_report_and_what_they_found(project: Path, name: str):
    before = outputs(project)
    kedro_run(project, name, **{name: {"preset": "quick", "set": quick(name)}})
    assert outputs(project) - before == promised(name)


def quick(name: str) -> dict[str, Any]:
    slots = {"search_attention": {"slot": "fusion.attention"}, "search_fusion": {"slot": "fusion"}}
    crossed = {"fusion": {"kind": "cross_attention"}} if name == "search_attention" else {}
    search = {"generation": 2, **slots.get(name, {})}
    return {
        "model": {"dim": 8, **crossed},
        "search": search,
        "train": {"epochs": 1},
        "run": {"budget": 1},
        "evaluate": {"resamples": 100},
    }


def test_every_preset_and_extractor_of_the_repositorys_parameters_is_one():
    import yaml

    from chiasma.experiment.compose import preset_names
    from chiasma.pipelines.composing import _KEYS

    for env in ("base", "tiny"):
        parameters = yaml.safe_load((ROOT / "conf" / env / "parameters.yml").read_text())
        chosen = {name: value for name, value in parameters.items() if name not in ("data", "machine")}
        assert {key for value in chosen.values() for key in value} <= set(_KEYS)
        assert {value["preset"] for value in chosen.values() if "preset" in value} <= set(preset_names())


def test_nobody_is_told_who_runs_what(project: Path, monkeypatch: pytest.MonkeyPatch):
    from kedro_telemetry import plugin

    from chiasma.pipelines import settings

    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    assert "kedro-telemetry" in settings.DISABLE_HOOKS_FOR_PLUGINS
    # Either is enough: the variable that our settings set, and the file in the repository.
    assert plugin._check_for_telemetry_consent(project) is False
    monkeypatch.delenv("KEDRO_DISABLE_TELEMETRY")
    assert plugin._check_for_telemetry_consent(project) is None
    assert plugin._check_for_telemetry_consent(ROOT) is False


def test_data_that_are_not_there_say_what_to_do(place: Path):
    with pytest.raises(DataError, match=r"hateful_memes, which are not there: .*kedro run --env=tiny"):
        kedro_run(make_project(place / "bare"), "data_processing", data={"source": "data/01_raw/hateful_memes"})


def test_an_unknown_parameter_is_refused_with_the_nearest(project: Path):
    with pytest.raises(ConfigError, match=r"parameters\.yml: 'presets' is unknown.*Known: preset, set"):
        kedro_run(project, "model_training", vilbert={"presets": "concat", "extractor": "pixels"})
