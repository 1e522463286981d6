"""Results apart by the values of columns, and answers among the choices that a question has."""

from collections.abc import Iterator

import numpy as np
import pytest

from chiasma.cli.results_table import print_evaluation
from chiasma.core.rng import numpy_rng
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import prepare
from chiasma.experiment.calibration import fit_calibrator
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.evaluate_run import evaluate
from chiasma.experiment.floors import Majority, classical_floors
from chiasma.experiment.predict import predict_manifest
from chiasma.experiment.report.console import render_table
from chiasma.experiment.report.failures import slices as slices_in_report
from chiasma.experiment.report.render import render
from chiasma.experiment.results import RunResult
from chiasma.experiment.saved import SavedModel
from chiasma.experiment.train_run import train
from chiasma.train.predicting import predict_logits
from tests.small_science_qa import Small

SETTINGS = ["model.dim=16", "model.encoders.text.kind=ngram", "model.encoders.text.buckets=64", "train.epochs=1"]


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


@pytest.fixture(scope="module")
def run(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunResult]:
    """Return a short training on a small ScienceQA."""
    folder = tmp_path_factory.mktemp("sqa")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RUNS", "CACHE", "STATE"):
            patch.setenv(f"CHIASMA_{name}", str(folder / name.lower()))
        config = load_config(data=str(small.folder(folder / "ScienceQA")), overrides=SETTINGS)
        result = train(config, console=SilentConsole())
        assert result is not None
        yield result


@pytest.fixture(scope="module")
def dataset(run: RunResult) -> Dataset:
    return prepare(load_config(data=run.results.source).data, seed=0, cache=run.run_path.parent.parent / "cache")[0]


def test_an_evaluation_tells_the_benchmark_s_parts_of_the_test_split(run, dataset, small, capsys):
    evaluation = evaluate(run.model_path, None, console=SilentConsole(), config=load_config())
    assert evaluation.slice_metric == "accuracy"
    found = {(row["slice"], row["value"]): row for row in evaluation.slices}
    assert set(found) == {
        *(("subject", value) for value in ("NAT", "SOC", "LAN")),
        *(("context", value) for value in ("TXT", "IMG", "NO")),
        *(("grades", value) for value in ("G1-6", "G7-12")),
    }
    saved = SavedModel.load(run.model_path)
    rows = np.arange(dataset.test_count) + len(dataset.ids(range(105))) - dataset.test_count
    # Predicted one choice at a time, as the benchmark's own script counts.
    right: dict[tuple[str, str], list[bool]] = {}
    logits = predict_logits(saved.model, dataset, rows)
    for identity, outputs in zip(dataset.ids(rows), logits, strict=True):
        own = small.problems[identity]
        choice = int(outputs[: len(own["choices"])].argmax())
        keys = [("subject", {"n": "NAT", "s": "SOC", "l": "LAN"}[own["subject"][0]])]
        keys += [("context", "TXT")] * bool(own["hint"]) + [("context", "IMG")] * bool(own["image"])
        keys += [("context", "NO")] * (not own["hint"] and not own["image"])
        keys += [("grades", "G1-6" if int(own["grade"].removeprefix("grade")) <= 6 else "G7-12")]
        for key in keys:
            right.setdefault(key, []).append(choice == own["answer"])
    assert {key: (row["count"], row["score"]) for key, row in found.items()} == {
        key: (len(each), pytest.approx(np.mean(each))) for key, each in right.items()
    }
    assert all(row["low"] <= row["score"] <= row["high"] for row in found.values())
    print_evaluation(evaluation)
    assert "By subject, context, grades (accuracy)" in capsys.readouterr().out


def test_a_training_tells_them_on_select_in_results_report_and_on_the_terminal(run):
    rows = run.results.slices
    assert sum(row["count"] for row in rows if row["slice"] == "grades") == 15
    table = slices_in_report(run.results)
    assert table.caption == "The winner on parts of the select split"
    assert ("subject", "NAT") in {row[:2] for row in table.rows}
    assert "The winner on parts of the select split" in render(run.results)
    lines = [str(part) for part in render_table(run.results).renderables]
    assert any(line.startswith("by subject: ") and "NAT" in line for line in lines)


def test_every_floor_answers_with_a_choice_that_there_is(dataset):
    rows = dataset.rows("select")
    assert {"majority", "tfidf_logistic"} <= {floor.name for floor in classical_floors(dataset.signature)}
    logits = Majority().fit(dataset).logits(dataset, rows)
    worst = dataset.restricted(np.zeros_like(logits), rows)
    assert (logits[worst < 0] < -1000).all()
    assert (worst < 0).any()


def test_impossible_answers_leave_the_temperature_alone(dataset):
    target = dataset.signature.target
    rng = numpy_rng(0, "calibration")
    labels = rng.integers(0, 2, 400)
    free = np.where(np.eye(4)[labels] > 0, 1.0, 0.0)[:, :] + rng.normal(size=(400, 4))
    two = free.copy()
    two[:, 2:] = -1e4
    alone = free[:, :2]
    limited = fit_calibrator(two, labels, target, metric="accuracy")
    plain = fit_calibrator(alone, labels, target.model_copy(update={"labels": ("A", "B")}), metric="log_loss")
    assert limited.temperatures[0] == pytest.approx(plain.temperatures[0], rel=1e-3)


def test_a_manifest_with_the_choices_is_predicted_among_them(run, tmp_path):
    saved = SavedModel.load(run.model_path)
    lines = ["id,text,allowed", "one,what,A", "two,what,B", "any,what,", "none,what,Y|Z"]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    columns = load_config(overrides=["data.columns.allowed=allowed"]).data.columns
    rows = predict_manifest(saved, tmp_path / "rows.csv", columns=columns, console=SilentConsole())
    assert [row.answer.prediction for row in rows[:2] if row.answer] == ["A", "B"]
    assert rows[2].answer is not None
    assert rows[3].error == "The row allows Y, Z, but the model predicts A, B, C, D."
