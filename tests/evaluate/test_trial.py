import time
from pathlib import Path

import numpy as np
import pytest

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.core.outcome import Rejected, Scored
from chiasma.core.spec import replace_at
from chiasma.data.signature import Signature
from chiasma.evaluate.inline import InlineExecutor
from chiasma.evaluate.job import Job
from chiasma.evaluate.tasks import Task
from chiasma.evaluate.training import TooSlow
from chiasma.evaluate.trial import run_trial
from chiasma.model.cost import cost
from chiasma.model.encoders import Convolution, NGram, Pixels
from chiasma.model.fusion import Early, Late, Multiplicative
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from chiasma.model.multimodal import ModelSpec
from chiasma.model.trunk import Place, PopulationSpec
from chiasma.model.trunk.members import PerceptronSpec
from chiasma.store.checkpoint import load_newest
from chiasma.train.callbacks import Moment, Stop
from chiasma.train.design import AdamW, Design, GrowthSpec, LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.metrics import measure
from chiasma.train.predicting import predict_logits

TRAINING = TrainingSpec(loop=LoopSpec(epochs=2.0, evaluations=2))
LINEAR = Design(
    model=ModelSpec(dim=16, encoders={"image": Pixels(size=8), "text": NGram(buckets=64)}, fusion=Late()),
    training=TRAINING,
)


@pytest.fixture
def task(claims):
    return Task(dataset=str(claims.folder), metric="accuracy")


def trial(task, claims, design=LINEAR, **settings):
    fields = {"seed": 1, **settings}
    limits = {name: fields.pop(name) for name in ("time_limit_seconds", "finish_within_seconds") if name in fields}
    return run_trial(task.job("search/1/0", design, **fields).model_copy(update=limits), claims)


def test_a_trained_design_is_scored_on_select_with_its_objectives_and_what_it_took(task, claims):
    outcome = trial(task, claims)
    assert isinstance(outcome, Scored)
    known = cost(LINEAR.model, claims.signature)
    assert set(outcome.objectives) == {"error", "flops", "parameters"}
    assert outcome.objectives["flops"] == known.flops
    assert outcome.objectives["parameters"] == known.parameters
    assert outcome.objectives["error"] == pytest.approx(1 - outcome.metrics["accuracy"])
    assert outcome.metrics["steps"] == 2 * -(-len(claims.rows("train")) // 64)
    assert outcome.metrics["epochs"] == pytest.approx(2, abs=0.2)
    assert outcome.metrics["cut_short"] == 0
    assert {"log_loss", "auroc", "steer_accuracy", "train_seconds"} <= set(outcome.metrics)


def test_the_same_job_gives_the_same_score_and_another_seed_another(task, claims):
    first, again, other = trial(task, claims), trial(task, claims), trial(task, claims, seed=2)
    assert first.objectives == again.objectives
    assert first.metrics["log_loss"] == again.metrics["log_loss"]
    assert first.metrics["log_loss"] != other.metrics["log_loss"]


def test_a_fraction_trains_that_part_of_the_epochs(task, claims):
    whole, half = trial(task, claims), trial(task, claims, fraction=0.5)
    assert half.metrics["steps"] == whole.metrics["steps"] / 2


def test_latency_is_measured_where_it_is_an_objective(task, claims):
    asked = task.model_copy(update={"objectives": ("error", "latency")})
    objectives = trial(asked, claims, fraction=0.2).objectives
    assert set(objectives) == {"error", "latency"}
    assert 0 < objectives["latency"] < 1


def test_a_metric_of_which_less_is_better_is_the_error_itself(task, claims):
    outcome = trial(task.model_copy(update={"metric": "log_loss"}), claims, fraction=0.2)
    assert outcome.objectives["error"] == outcome.metrics["log_loss"]


def test_a_design_that_does_not_fit_the_data_is_rejected_at_build_with_the_reason(task, claims):
    design = Design(model=ModelSpec(encoders={"text": Convolution()}))
    outcome = trial(task, claims, design)
    assert isinstance(outcome, Rejected)
    assert outcome.stage == "build"
    assert outcome.reason.startswith("encoders.text: kind 'convolution' does not read text inputs")


def test_a_loss_of_another_task_is_rejected_at_build(task, claims):
    design = replace_at(LINEAR, "training.loop.loss", {"kind": "squared_error"})
    outcome = trial(task, claims, design)
    assert (outcome.kind, outcome.stage) == ("rejected", "build")


def test_a_design_over_the_parameter_limit_is_rejected_before_training(task, claims):
    outcome = trial(task.model_copy(update={"max_parameters": 10}), claims)
    assert (outcome.kind, outcome.stage) == ("rejected", "probe")
    assert outcome.reason.endswith("but the limit is 10")


GROWING = Design(
    model=ModelSpec(
        dim=16,
        encoders=LINEAR.model.encoders,
        fusion=Early(depth=1, heads=2),
        trunk=PopulationSpec(members={"perceptron_1": Place(member=PerceptronSpec())}),
    ),
    training=TrainingSpec(
        loop=LoopSpec(epochs=2.0, evaluations=8, restore_best=False),
        growth=GrowthSpec(births="random", probation=1, learned=0.0, last_birth=1.0),
    ),
)


def test_costs_are_those_of_the_trunk_as_it_has_grown_and_limits_hold_for_it(task, claims, tmp_path):
    outcome = trial(task, claims, GROWING, keep_checkpoint=str(tmp_path / "kept"))
    trained = Design.from_dict(load_newest(tmp_path / "kept").documents["design"])
    initial, grown = cost(GROWING.model, claims.signature), cost(trained.model, claims.signature)
    assert grown.parameters > initial.parameters
    assert (outcome.objectives["parameters"], outcome.objectives["flops"]) == (grown.parameters, grown.flops)
    refused = trial(task.model_copy(update={"max_parameters": initial.parameters}), claims, GROWING)
    assert isinstance(refused, Rejected)
    assert refused.stage == "train"
    assert refused.reason == (
        f"the trained model has {grown.parameters:,} parameters, but the limit is {initial.parameters:,}"
    )


def test_a_trunk_grows_on_a_short_rung_too(task, claims):
    design = replace_at(GROWING, "training.loop.epochs", 20.0)
    outcome = trial(task, claims, design, fraction=0.1)
    assert outcome.metrics["steps"] <= 10
    assert outcome.objectives["parameters"] > cost(GROWING.model, claims.signature).parameters


def test_a_training_that_becomes_nan_is_rejected_and_names_the_step(task, claims):
    optim = OptimSpec(lr=1e30, algorithm=AdamW(), warmup=0.0, clip=None)
    design = LINEAR.model_copy(update={"training": TRAINING.model_copy(update={"optim": optim})})
    design = replace_at(design, "model.fusion", Multiplicative())
    outcome = trial(task, claims, design)
    assert isinstance(outcome, Rejected)
    assert outcome.stage == "train"
    assert "Step " in outcome.reason
    assert "NaN or an infinity" in outcome.reason


def test_a_training_that_cannot_end_in_time_is_rejected_early(task, claims):
    endless = replace_at(LINEAR, "training.loop.epochs", 100_000.0)
    started = time.monotonic()
    outcome = trial(task, claims, endless, time_limit_seconds=30.0)
    assert time.monotonic() - started < 15
    assert isinstance(outcome, Rejected)
    assert outcome.stage == "deadline"
    assert outcome.reason.startswith("too slow: would take about ")
    assert outcome.reason.endswith(" s, the limit is 30 s")


def test_a_training_told_to_finish_in_time_is_scored_with_its_best_so_far(task, claims):
    endless = replace_at(LINEAR, "training.loop.epochs", 100_000.0)
    started = time.monotonic()
    outcome = trial(task, claims, endless, finish_within_seconds=2.0)
    assert time.monotonic() - started < 5
    assert isinstance(outcome, Scored)
    assert outcome.metrics["cut_short"] == 1


def test_what_is_asked_for_is_kept_and_gives_the_recorded_score(task, claims, tmp_path):
    folder = tmp_path / "kept"
    predictions = folder / "select.npz"
    outcome = trial(task, claims, keep_checkpoint=str(folder), keep_predictions=str(predictions))
    rows = claims.rows("select")
    with np.load(predictions, allow_pickle=False) as kept:
        assert kept["rows"].tolist() == rows.tolist()
        logits = kept["logits"]
    labels = claims.labels(rows).numpy()
    assert measure(logits, labels, claims.signature.target)["accuracy"] == outcome.metrics["accuracy"]
    checkpoint = load_newest(folder)
    assert checkpoint.documents["history"]
    design = Design.from_dict(checkpoint.documents["design"])
    assert design == LINEAR
    model = design.model.build(Signature.from_dict(checkpoint.documents["signature"]))
    model.load_state_dict(checkpoint.tensors("model"), strict=True)
    np.testing.assert_allclose(predict_logits(model, claims, rows), logits, rtol=1e-5, atol=1e-6)


def test_nothing_is_kept_of_a_rejected_design(task, claims, tmp_path):
    small = task.model_copy(update={"max_parameters": 10})
    outcome = trial(small, claims, keep_checkpoint=str(tmp_path / "kept"), keep_predictions=str(tmp_path / "p.npz"))
    assert isinstance(outcome, Rejected)
    assert list(tmp_path.iterdir()) == []


def test_a_metric_that_does_not_exist_is_our_fault_and_not_the_candidates(task, claims):
    with pytest.raises(ConfigError, match="'accuraccy' is not a metric of classification"):
        trial(task.model_copy(update={"metric": "accuraccy"}), claims)


def test_the_test_split_is_never_touched(task, claims, monkeypatch):
    def refuse(*_):
        raise AssertionError("the sealed test split was opened")

    monkeypatch.setattr(type(claims), "test_rows", refuse)
    assert isinstance(trial(task, claims, fraction=0.1), Scored)


def moment(step, *, total=100):
    nothing = {
        "epoch": 0.0,
        "loss": 0.0,
        "gradient_norm": 0.0,
        "rate": 0.0,
        "metrics": None,
        "history": (),
        "model": None,
    }
    return Moment(step=step, total_steps=total, **nothing)


def test_slowness_is_predicted_from_the_steps_after_the_first():
    watch = TooSlow(started=time.monotonic() - 10, limit_seconds=12.0)
    assert watch.review(moment(1)) == ()
    time.sleep(0.7)
    assert watch.review(moment(4)) == ()
    (stop,) = watch.review(moment(8))
    assert isinstance(stop, Stop)
    assert stop.reason == "too slow: would take about 20 s, the limit is 12 s"
    assert TooSlow(started=time.monotonic(), limit_seconds=1e4).review(moment(8)) == ()


def test_one_step_so_slow_that_there_is_no_hope_is_enough():
    watch = TooSlow(started=time.monotonic(), limit_seconds=12.0)
    assert watch.review(moment(1)) == ()
    time.sleep(1.1)
    (stop,) = watch.review(moment(2))
    assert "the limit is 12 s" in stop.reason


def test_jobs_run_in_this_process_in_order_until_the_deadline(task, claims):
    with InlineExecutor() as executor:
        handles = [executor.submit(task.job(f"job {n}", LINEAR, seed=n, fraction=0.1)) for n in range(3)]
        executor.cancel(handles[1])
        assert list(executor.as_completed(time.monotonic())) == []
        ended = list(executor.as_completed())
    assert [job.key for job, _, _ in ended] == ["job 0", "job 2"]
    assert all(isinstance(outcome, Scored) and seconds > 0 for _, outcome, seconds in ended)


def test_a_job_survives_the_wire():
    job = Job(key="search/3/1", design=LINEAR, dataset=str(Path("somewhere")), metric="f1_macro", seed=2**62)
    assert Job.from_json(job.to_json()) == job


def test_an_undefined_metric_names_those_that_are_defined(task, claims, monkeypatch):
    alone = claims.rows("select")[:1]
    real = claims.rows

    monkeypatch.setattr(type(claims), "rows", lambda self, split: alone if split == "select" else real(split))
    with pytest.raises(ChiasmaError, match="metric: 'auroc' is undefined on the select split of digit_claims"):
        trial(task.model_copy(update={"metric": "auroc"}), claims, fraction=0.1)


class BrokenFusion(Fusion):
    def forward(self, image, text):
        raise KeyError("a third party's mistake")


class BrokenSettings(FusionSettings):
    kind: str = "broken"

    def build(self, dim):
        return BrokenFusion()


BrokenFusion.__module__ = BrokenSettings.__module__ = __name__


def test_what_a_plugin_raises_is_the_candidates_fault_and_names_it(task, claims, monkeypatch):
    monkeypatch.setattr("chiasma.model.plugins.spec_class", lambda group, name: BrokenSettings)
    broken = replace_at(LINEAR, "model.fusion", {"kind": "plugin", "name": "broken"})
    outcome = trial(task, claims, broken)
    assert isinstance(outcome, Rejected)
    assert outcome.stage == "plugin"
    assert outcome.reason.startswith("chiasma.fusion broken raised KeyError")


def test_what_we_raise_ourselves_is_never_the_candidates_fault(task, claims, monkeypatch):
    def fail(*arguments, **settings):
        raise KeyError("our mistake")

    monkeypatch.setattr("chiasma.evaluate.trial.predict_logits", fail)
    with pytest.raises(KeyError, match="our mistake"):
        trial(task, claims)
