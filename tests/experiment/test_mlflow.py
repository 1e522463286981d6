"""A training in MLflow, in a file and for real: what it is told, and what happens when it fails."""

import importlib.util
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chiasma.core.errors import ConfigError
from chiasma.data.batch import Sample
from chiasma.experiment import train_run
from chiasma.experiment.attention_search import search_attention
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.mlflow_model import MlflowModel
from chiasma.experiment.results import RunResult
from chiasma.experiment.saved import SavedModel
from chiasma.store.folders import list_runs
from chiasma.store.run import RunStore
from chiasma.train.mlflow_tracker import EVENTS_TAG, flattened, quiet_mlflow, whole_uri
from tests.experiment.mlflow_runs import client_of, runs_of

# What all share is made once: by one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("mlflow")

SMALL = ("data.rows=320", "train.epochs=2", "train.evaluations=2", "model.encoders.text.kind=ngram", "run.device=cpu")


class Console(SilentConsole):
    """Has the user press Ctrl-C when a line holds certain words."""

    def __init__(self, stop_at: str = "no line") -> None:
        self.said: list[str] = []
        self.stop_at = stop_at

    def say(self, text: str) -> None:
        self.said.append(text)

    @property
    def interrupted(self) -> bool:
        return any(self.stop_at in line for line in self.said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Return a folder for runs and for MLflow's file, apart from what the user's environment names."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        yield tmp_path_factory.mktemp("mlflow")


def settings(folder: Path, *overrides: str, name: str = "quick") -> RunConfig:
    shown = ["tracking.mlflow.enabled=true", f"tracking.mlflow.uri=sqlite:///{folder}/mlflow.db"]
    return load_config(name, overrides=[*SMALL, *shown, f"run.folder={folder}/runs", *overrides])


def told(folder: Path) -> Any:
    return client_of(folder / "mlflow.db")


def runs(folder: Path, experiment: str) -> list[Any]:
    return runs_of(folder / "mlflow.db", experiment)


@pytest.fixture(scope="module")
def shown(folder: Path) -> tuple[RunResult, Any]:
    """Return a training that was shown, and MLflow's run."""
    config = settings(folder, "tracking.every_steps=2", "tracking.mlflow.experiment=shown")
    result = train_run.train(config, console=Console(), command=["chiasma", "train"])
    assert result is not None
    (run,) = runs(folder, "shown")
    return result, run


def test_mlflow_sees_the_figures_of_each_evaluation(folder: Path, shown):
    result, run = shown
    client = told(folder)
    wanted = {"val_accuracy": "accuracy", "val_auroc": "auroc", "val_f1": "f1_macro", "val_loss": "log_loss"}
    for name, own in {**wanted, "train_loss": "train_loss"}.items():
        with quiet_mlflow():
            seen = {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}
        assert seen == {int(row["step"]): row[own] for row in result.results.history}
    with quiet_mlflow():
        steps = [each.step for each in client.get_metric_history(run.info.run_id, "train_step_loss")]
    assert steps == [2, 4, 6, 8]


def test_mlflow_sees_the_settings_the_data_and_the_result(shown):
    result, run = shown
    resolved = flattened(json.loads((result.run_path / "config.json").read_text()))
    assert {name: run.data.params[name] for name in resolved} == {name: str(value) for name, value in resolved.items()}
    with RunStore.open(result.run_path) as store:
        fingerprint = store.events("dataset")[0].data["fingerprint"]
    assert run.data.params["chiasma.fingerprint"] == fingerprint
    assert [(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs] == [
        ("digit_claims", fingerprint)
    ]
    assert (run.data.params["samples.train"], run.data.params["device"]) == ("200", "cpu")
    assert run.data.metrics["parameters_in_all"] == run.data.metrics["parameters"] > 0
    assert run.data.metrics["select_accuracy"] == result.results.arms[0].select["accuracy"]
    assert [each.step for each in run.outputs.model_outputs] == [result.results.budget["steps"]]
    assert (run.info.status, run.info.run_name) == ("FINISHED", result.run_path.name)


def test_mlflow_keeps_the_report(folder: Path, shown):
    result, run = shown
    client = told(folder)
    with quiet_mlflow():
        names = [file.path for file in client.list_artifacts(run.info.run_id)]
        kept = Path(client.download_artifacts(run.info.run_id, "report.html")).read_bytes()
    assert names == ["config.json", "report.html", "results.json"]
    assert kept == (result.run_path / "report.html").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlruns", "runs"]


FRESH = """
import sys, pathlib, pandas, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
image = pathlib.Path(sys.argv[3])
frame = pandas.DataFrame({"image": [image.read_bytes(), str(image), None], "text": ["a seven", "a seven", "even"]})
print(model.predict(frame).to_json(orient="records"))
"""


def test_the_model_predicts_in_a_fresh_process(folder: Path, shown, tmp_path: Path):
    result, run = shown
    picture = tmp_path / "digit.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(picture)
    uri, model = f"sqlite:///{folder}/mlflow.db", f"runs:/{run.info.run_id}/model"
    words = [sys.executable, "-W", "ignore", "-c", FRESH, uri, model, str(picture)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.strip().splitlines()[-1])
    saved = SavedModel.load(result.model_path, device="cpu")
    sample = Sample("1", {"image": np.asarray(Image.open(picture)), "text": "a seven"})
    expected = dict(zip(saved.labels, saved.predict_proba([sample])[0], strict=True))
    for row in rows[:2]:
        assert row["prediction"] == saved.predict([sample])[0]
        assert {name: row[name] for name in saved.labels} == pytest.approx(expected, abs=1e-6)
    assert rows[2]["true"] != pytest.approx(rows[0]["true"], abs=1e-6)


def test_a_row_without_anything_that_the_model_reads_is_named(shown):
    result, _ = shown
    model = MlflowModel(SavedModel.load(result.model_path, device="cpu"))
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    frame = pd.DataFrame({"image": [picture.getvalue(), None], "text": ["a seven", None]})
    with pytest.raises(ValueError, match="The model reads image and text, but row 1 has none of it"):
        model.predict(frame)


def test_a_resumed_training_is_the_same_run_and_another_training_another(folder: Path):
    place = "tracking.mlflow.experiment=grown"
    rules = ("growth.births=random", "growth.learned=0.0", "train.evaluations=8", "train.epochs=4", "model.dim=16")
    result = train_run.train(settings(folder, place, *rules, name="growth"), console=Console("step 8/"))
    assert result is not None
    assert result.stopped == "interrupted"
    (stopped,) = runs(folder, "grown")
    assert stopped.info.status == "KILLED"
    result = train_run.resume(result.run_path, console=Console())
    assert result is not None
    (run,) = runs(folder, "grown")
    assert (run.info.run_id, run.info.status) == (stopped.info.run_id, "FINISHED")
    client = told(folder)
    with quiet_mlflow():
        steps = [each.step for each in client.get_metric_history(run.info.run_id, "val_accuracy")]
    assert steps == [int(row["step"]) for row in result.results.history]
    happened = [f"{event['event']} of {event['name']}: {event['reason']}" for event in result.results.growth["events"]]
    assert [line.partition(": ")[2] for line in run.data.tags[EVENTS_TAG].splitlines()] == happened
    train_run.train(settings(folder, place, "tracking.mlflow.model=false"), console=Console())
    assert len(runs(folder, "grown")) == 2
    with quiet_mlflow():
        kept = client.search_logged_models([run.info.experiment_id])
    assert [model.source_run_id for model in kept] == [run.info.run_id, run.info.run_id]


def test_a_training_joins_a_run_that_is_there_and_leaves_it_open(folder: Path):
    client = told(folder)
    with quiet_mlflow():
        own = client.create_run(client.create_experiment("pipeline", artifact_location=str(folder))).info.run_id
    overrides = (f"tracking.mlflow.run={own}", "tracking.mlflow.model=false")
    train_run.train(settings(folder, *overrides), console=Console())
    (run,) = runs(folder, "pipeline")
    assert (run.info.run_id, run.info.status) == (own, "RUNNING")
    assert "val_auroc" in run.data.metrics


def test_a_missing_package_is_said_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else found(name, *rest)
    )
    with pytest.raises(ConfigError, match=r"needs the package mlflow.*pip install 'chiasma\[tracking\]'"):
        train_run.train(settings(tmp_path), console=Console())
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_ends_a_new_run_but_not_a_resumed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = settings(tmp_path, "tracking.mlflow.uri=http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"MLflow cannot be told .*tracking\.mlflow\.uri=sqlite:///mlflow\.db"):
        train_run.train(config, console=Console())
    (run,) = list_runs(tmp_path / "runs")
    result = train_run.resume(run, console=Console())
    assert result is not None
    assert result.stopped == "finished"
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    warned = next(line["message"] for line in log if line["level"] == "warning")
    assert warned.startswith("The training goes on without MLflow. MLflow cannot be told")


def test_a_training_whose_database_is_gone_goes_on_with_one_warning(tmp_path: Path, folder: Path, caplog):
    class Vandal(Console):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("MLflow: "):
                (tmp_path / "mlflow.db").write_bytes(b"not a database at all" * 1000)

    (tmp_path / "mlflow.db").write_bytes((folder / "mlflow.db").read_bytes())
    with caplog.at_level(logging.WARNING, logger="chiasma"):
        result = train_run.train(settings(tmp_path), console=Vandal())
    assert result is not None
    assert result.stopped == "finished"
    assert [line.startswith("MLflow failed and is told nothing more") for line in caplog.messages] == [True]


def test_searches_refuse_mlflow(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"tracking\.mlflow\.enabled: trackers are shown the one training of"):
        search_attention(settings(tmp_path), console=Console())
    assert list(tmp_path.iterdir()) == []


def test_an_address_with_a_login_is_no_setting():
    with pytest.raises(ConfigError, match=r"tracking\.mlflow\.uri.*holds a login"):
        load_config(overrides=["tracking.mlflow.uri=https://me:secret@example.org"])


def test_a_file_is_the_same_from_every_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert whole_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert whole_uri("sqlite:////srv/mlflow.db") == "sqlite:////srv/mlflow.db"
    assert whole_uri("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
