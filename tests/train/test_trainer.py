"""What a training does."""

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from chiasma.core.errors import ConfigError, NonFiniteError
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.model.multimodal import ModelSpec
from chiasma.store.checkpoint import load_newest
from chiasma.train.callbacks import ScaleLearningRate, Stop
from chiasma.train.design import Design, LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.fit import Fit
from chiasma.train.metrics import measure
from chiasma.train.predicting import dataset_batches, modalities_of, predict_logits
from chiasma.train.progress import ProgressBar
from chiasma.train.trainer import Trainer
from tests.train.toys import BIRTH, At, Each, StopAfter


def quick(model: ModelSpec, **settings) -> Design:
    """Return a design that trains for eight steps, unless told otherwise."""
    optim = OptimSpec.from_dict({"lr": 5e-3, **settings.pop("optim", {})})
    loop = LoopSpec.from_dict({"epochs": 2, "batch_size": 64, "evaluations": 2, **settings})
    return Design(model=model, training=TrainingSpec(optim=optim, loop=loop))


def fit(design: Design, data: Dataset, **arguments) -> Fit:
    return Trainer(design, data, device="cpu", **arguments).fit()


def weights(done: Fit) -> np.ndarray:
    return np.concatenate([value.numpy().ravel() for value in done.model.state_dict().values()])


def test_history_has_a_row_for_each_evaluation_and_best_is_the_best_of_them(design: Design, claims: Dataset):
    done = fit(design, claims)
    assert [row["step"] for row in done.history] == [7, 13, 20, 26, 32]
    assert done.history[-1]["epoch"] == 4.0
    assert done.best == max(done.history, key=lambda row: row["accuracy"])
    assert {"accuracy", "log_loss", "auroc", "train_loss", "rate"} <= set(done.best)
    assert (done.stopped, done.steps) == ("finished", 32)


@pytest.mark.parametrize(("fraction", "steps"), [(1.0, [8, 16, 24, 32]), (0.5, [8, 16]), (0.1, [3])])
def test_an_evaluation_may_come_with_every_epoch(design: Design, claims: Dataset, fraction: float, steps: list[int]):
    each = replace_at(design, "training.loop.evaluations", "every_epoch")
    done = fit(each, claims, fraction=fraction)
    assert [row["step"] for row in done.history] == steps


def test_the_model_that_is_returned_is_the_one_that_was_measured_as_best(design: Design, claims: Dataset):
    done = fit(design, claims)
    steer = claims.rows("steer")
    found = measure(predict_logits(done.model, claims, steer), claims.labels(steer).numpy(), claims.signature.target)
    assert {name: done.best[name] for name in found} == found
    assert not done.model.training


def test_a_design_that_learns_from_steer_sees_its_rows_and_is_never_judged_by_them(model: ModelSpec, claims: Dataset):
    held, learns = {"restore_best": False}, {"restore_best": False, "train_on_steer": True}
    without, done = fit(quick(model, **held), claims), fit(quick(model, **learns), claims)
    rows = len(claims.rows("train")) + len(claims.rows("steer"))
    assert (done.steps, done.history, done.best) == (2 * -(-rows // 64), [], {})
    assert not np.array_equal(weights(done), weights(without))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loop": {"train_on_steer": True}}, "needs restore_best=false and patience=null, but restore_best=true"),
        ({"loop": {"train_on_steer": True, "restore_best": False, "patience": 3}}, "and patience=3"),
        (
            {"loop": {"train_on_steer": True, "restore_best": False}, "optim": {"schedule": {"kind": "plateau"}}},
            "schedule=plateau and train_on_steer=true exclude each other",
        ),
    ],
)
def test_decisions_on_steer_are_refused_where_it_is_learned_from(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        TrainingSpec.from_dict(changes)


def test_without_restoring_the_last_weights_are_returned(model: ModelSpec, claims: Dataset):
    design = quick(model, epochs=6, evaluations=6, restore_best=False, optim={"lr": 0.05})
    done = fit(design, claims)
    steer = claims.rows("steer")
    found = measure(predict_logits(done.model, claims, steer), claims.labels(steer).numpy(), claims.signature.target)
    assert found["log_loss"] == done.history[-1]["log_loss"]
    assert done.history[-1] != done.best


def test_training_lowers_the_loss(model: ModelSpec, claims: Dataset):
    bag = replace_at(replace_at(model, "encoders.text", {"kind": "ngram", "orders": 4}), "dim", 32)
    history = fit(quick(bag, epochs=20, evaluations=4, optim={"lr": 1e-2}), claims).history
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]


def test_one_seed_gives_one_result_and_another_seed_another(model: ModelSpec, claims: Dataset):
    design = quick(model)
    np.testing.assert_array_equal(weights(fit(design, claims, seed=3)), weights(fit(design, claims, seed=3)))
    assert not np.array_equal(weights(fit(design, claims, seed=3)), weights(fit(design, claims, seed=4)))


def test_the_state_of_torchs_generator_does_not_matter(model: ModelSpec, claims: Dataset):
    torch.manual_seed(1)
    first = weights(fit(quick(model), claims))
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, weights(fit(quick(model), claims)))


def test_accumulated_micro_batches_equal_the_big_batch_up_to_rounding(model: ModelSpec, claims: Dataset):
    still = replace_at(model, "encoders.text.dropout", 0.0)
    balanced = {"kind": "cross_entropy", "balanced": True, "smoothing": 0.1}
    whole, parts = (
        weights(fit(quick(still, loss=balanced, accumulation=count, optim={"algorithm": {"kind": "sgd"}}), claims))
        for count in (1, 4)
    )
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_accumulation_leaves_augmentation_as_it_is(model: ModelSpec, claims: Dataset):
    still = replace_at(model, "encoders.text.dropout", 0.0)
    settings = {"augment": {"crop": 0.2, "erase": 0.5, "word_dropout": 0.2, "modality_dropout": 0.3}}
    whole, parts, plain = (
        weights(fit(quick(still, accumulation=count, **given, optim={"algorithm": {"kind": "sgd"}}), claims))
        for count, given in ((1, settings), (4, settings), (1, {}))
    )
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert np.abs(plain - whole).max() > 1e-3


def test_evaluation_sees_examples_as_they_are(model: ModelSpec, claims: Dataset):
    augment = {"crop": 0.5, "erase": 1.0, "trivial": True, "word_dropout": 0.9, "modality_dropout": 0.9}
    done = fit(quick(model, augment=augment), claims)
    rows = claims.rows("steer")
    metrics = measure(predict_logits(done.model, claims, rows), claims.labels(rows).numpy(), claims.signature.target)
    assert {name: done.best[name] for name in metrics} == metrics


def test_augmentation_that_is_off_changes_no_bit(model: ModelSpec, claims: Dataset):
    off = {"crop": 0.0, "flip": False, "colour": 0.0, "erase": 0.0, "trivial": False}
    assert np.array_equal(weights(fit(quick(model), claims)), weights(fit(quick(model, augment=off), claims)))


KNOBS = {
    "training.optim.algorithm": {"kind": "adam"},
    "training.optim.algorithm.beta1": 0.5,
    "training.optim.algorithm.beta2": 0.9,
    "training.optim.algorithm.epsilon": 1e-2,
    "training.optim.lr": 1e-2,
    "training.optim.weight_decay": 0.5,
    "training.optim.schedule": {"kind": "linear"},
    "training.optim.schedule.floor": 0.5,
    "training.optim.warmup": 0.5,
    "training.optim.clip": 1e-3,
    "training.loop.epochs": 3.0,
    "training.loop.batch_size": 32,
    "training.loop.accumulation": 2,
    "training.loop.loss": {"kind": "focal"},
    "training.loop.ema": 0.5,
    "training.loop.patience": 1,
    "training.loop.evaluations": 8,
    "training.loop.restore_best": False,
    "training.loop.augment.word_dropout": 0.5,
}


@pytest.fixture(scope="module")
def plain(claims: Dataset) -> tuple[Design, Fit]:
    model = ModelSpec.from_dict({"dim": 4, "encoders": {"text": {"kind": "bert", "depth": 1, "heads": 1}}})
    design = quick(model, evaluations=4, optim={"lr": 0.02})
    return design, fit(design, claims)


@pytest.mark.parametrize("path", KNOBS)
def test_no_setting_of_training_is_dead(path: str, plain: tuple[Design, Fit], claims: Dataset):
    design, before = plain
    after = fit(replace_at(design, path, KNOBS[path]), claims)
    assert not np.array_equal(weights(before), weights(after)) or before.history != after.history


@pytest.mark.parametrize("schedule", ["one_cycle", "constant", "plateau"])
@pytest.mark.parametrize("algorithm", ["adam", "sgd"])
def test_every_schedule_and_algorithm_trains(schedule: str, algorithm: str, plain: tuple[Design, Fit], claims: Dataset):
    design = replace_at(plain[0], "training.optim.schedule", {"kind": schedule})
    done = fit(replace_at(design, "training.optim.algorithm", {"kind": algorithm}), claims)
    assert not np.array_equal(weights(done), weights(plain[1]))


def test_early_stopping_ends_after_patience_evaluations_without_improvement(model: ModelSpec, claims: Dataset):
    design = quick(model, epochs=30, evaluations=30, patience=2, optim={"lr": 1e-9})
    done = fit(design, claims)
    assert done.stopped == "early"
    best = next(index for index, row in enumerate(done.history) if row == done.best)
    assert len(done.history) == best + 3


def test_a_fraction_trains_that_part_of_the_epochs_with_the_schedule_compressed(model: ModelSpec, claims: Dataset):
    design = quick(model, epochs=8, evaluations=8, optim={"warmup": 0.0})
    done = fit(design, claims, fraction=0.25)
    assert (done.steps, len(done.history)) == (8, 2)
    assert done.history[0]["rate"] == pytest.approx(5e-3 * 0.5 * (1 + np.cos(np.pi * 3 / 8)))


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_fraction_outside_its_range_is_refused(fraction: float, model: ModelSpec, claims: Dataset):
    with pytest.raises(ValueError, match=f"above 0 and at most 1, but fraction={fraction}"):
        Trainer(quick(model), claims, fraction=fraction, device="cpu")


def test_a_deadline_ends_a_training_in_time_with_the_best_so_far(model: ModelSpec, claims: Dataset):
    design = quick(model, epochs=10_000, evaluations=10_000)
    fit(quick(model), claims)
    deadline = time.monotonic() + 3.0
    done = fit(design, claims, deadline=deadline)
    assert time.monotonic() < deadline + 0.5
    assert done.stopped == "deadline"
    assert done.best in done.history


def test_a_deadline_before_the_first_evaluation_still_gives_a_measured_model(model: ModelSpec, claims: Dataset):
    design = quick(model, epochs=10_000, evaluations=1)
    done = fit(design, claims, deadline=time.monotonic() + 3.0)
    assert done.stopped == "deadline"
    assert done.best["step"] == done.steps > 0


def test_a_deadline_that_has_passed_gives_the_fresh_model_at_once(model: ModelSpec, claims: Dataset):
    done = fit(quick(model), claims, deadline=time.monotonic() - 1)
    assert (done.stopped, done.steps, done.best, done.history) == ("deadline", 0, {}, [])


def test_a_request_to_stop_from_another_thread_saves_and_returns(model: ModelSpec, claims: Dataset, folder: Path):
    trainer = Trainer(quick(model, epochs=100_000, evaluations=100_000), claims, device="cpu", checkpoints=folder)
    timer = threading.Timer(0.5, trainer.request_stop)
    timer.start()
    done = trainer.fit()
    timer.join()
    found = load_newest(folder)
    assert done.stopped == "interrupted"
    assert found is not None
    assert found.step == done.steps


def test_a_diverging_training_is_an_error_and_leaves_only_finite_checkpoints(
    model: ModelSpec, claims: Dataset, folder: Path
):
    design = quick(model, epochs=50, optim={"lr": 1e30, "warmup": 0.5, "clip": None})
    with pytest.raises(NonFiniteError, match=r"Step \d+: .* holds a NaN or an infinity"):
        fit(design, claims, checkpoints=folder, checkpoint_every_seconds=0)
    found = load_newest(folder)
    for group in found.tensor_names if found else ():
        assert all(torch.isfinite(value).all() for value in found.tensors(group).values())


def test_ema_weights_are_those_that_are_measured_and_returned(model: ModelSpec, claims: Dataset):
    design = quick(model, ema=0.9999, evaluations=1, restore_best=False)
    done = fit(design, claims)
    steer = claims.rows("steer")
    found = measure(predict_logits(done.model, claims, steer), claims.labels(steer).numpy(), claims.signature.target)
    assert found["log_loss"] == done.history[-1]["log_loss"]
    raw = fit(quick(model, evaluations=1, restore_best=False), claims)
    assert not np.array_equal(weights(done), weights(raw))


def test_a_callback_sees_every_step_and_the_metrics_of_evaluations(model: ModelSpec, claims: Dataset):
    watcher = At({})
    fit(quick(model), claims, callbacks=[watcher])
    assert [moment.step for moment in watcher.moments] == list(range(1, 9))
    assert [moment.step for moment in watcher.moments if moment.metrics] == [4, 8]
    assert all(moment.gradient_norm > 0 and moment.total_steps == 8 for moment in watcher.moments)


def test_a_callback_that_only_watches_changes_nothing(model: ModelSpec, claims: Dataset):
    watched = fit(quick(model), claims, callbacks=[Each(lambda moment: moment.loss)])
    np.testing.assert_array_equal(weights(watched), weights(fit(quick(model), claims)))


def test_a_callback_can_stop_the_training_with_its_reason(model: ModelSpec, claims: Dataset):
    done = fit(quick(model), claims, callbacks=[At({3: Stop("nothing left to learn")})])
    assert (done.steps, done.stopped) == (3, "nothing left to learn")


def test_a_callback_can_hold_a_part_of_the_model_still(model: ModelSpec, claims: Dataset):
    seen = []
    frozen = At({2: ScaleLearningRate({"encoders.image": 0.0})})
    watch = Each(lambda moment: seen.append({name: p.clone() for name, p in moment.model.named_parameters()}))
    fit(quick(model), claims, callbacks=[frozen, watch])
    moved = {name for name in seen[2] if not torch.equal(seen[2][name], seen[7][name])}
    assert moved
    assert not any(name.startswith("encoders.image") for name in moved)


def test_an_edited_model_keeps_the_moments_of_old_parameters_and_trains_new_ones(
    model: ModelSpec, claims: Dataset, folder: Path
):
    fit(quick(model), claims, callbacks=[At({4: BIRTH})], checkpoints=folder)
    found = load_newest(folder)
    assert found is not None
    moments = found.tensors("optimizer")
    assert moments["fusion.newcomer.weight/step"].item() == 4
    assert moments["fusion.mix.weight/step"].item() == 8
    assert found.documents["state"]["training"]["edits"] == [{"callback": "at", "edit": {"add": "newcomer"}, "step": 4}]


def test_the_best_model_is_returned_as_it_was_before_an_edit(model: ModelSpec, claims: Dataset):
    design = quick(model, epochs=4, evaluations=4, optim={"lr": 1e-9})
    done = fit(design, claims, callbacks=[At({14: BIRTH, 15: Stop("enough")})])
    assert done.best["step"] <= 12
    assert not any("newcomer" in name for name in done.model.state_dict())


def test_two_callbacks_of_one_name_are_refused(model: ModelSpec, claims: Dataset):
    with pytest.raises(ValueError, match="different names, but got at, at"):
        Trainer(quick(model), claims, callbacks=[At({}), At({})], device="cpu")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_trains_and_keeps_float32_weights(precision, model: ModelSpec, claims: Dataset):
    done = fit(quick(model), claims, precision=precision)
    assert {value.dtype for value in done.model.state_dict().values()} == {torch.float32}
    assert done.history[-1]["train_loss"] != fit(quick(model), claims).history[-1]["train_loss"]


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_design_of_one_modality_trains_on_data_that_has_two(modality: str, model: ModelSpec, claims: Dataset):
    one = ModelSpec(dim=8, encoders={modality: model.encoders[modality]})
    assert fit(quick(one), claims).stopped == "finished"


def test_the_metric_that_decides_can_be_chosen(model: ModelSpec, claims: Dataset):
    done = fit(quick(model, epochs=8, evaluations=8), claims, metric="log_loss")
    assert done.best == min(done.history, key=lambda row: row["log_loss"])
    with pytest.raises(ConfigError, match="Did you mean 'auroc'"):
        Trainer(quick(model), claims, metric="auroq")


def test_a_dataset_can_be_given_by_its_folder(model: ModelSpec, claims: Dataset):
    done = fit(quick(model), claims.folder)
    np.testing.assert_array_equal(weights(done), weights(fit(quick(model), claims)))


def test_predicting_leaves_the_training_mode_as_it_was(model: ModelSpec, claims: Dataset):
    network = model.build(claims.signature)
    rows = claims.rows("select")
    for training in (True, False):
        network.train(training)
        whole = predict_logits(network, claims, rows)
        assert network.training is training
    np.testing.assert_allclose(whole, predict_logits(network, claims, rows, batch_size=7), atol=1e-5)
    np.testing.assert_array_equal(whole, predict_logits(network, [claims.batch(rows)]))


def test_predicting_nothing_is_refused(model: ModelSpec, claims: Dataset):
    network = model.build(claims.signature)
    with pytest.raises(ValueError, match="at least one row, but got none"):
        predict_logits(network, [])
    with pytest.raises(ValueError, match="rows of a dataset, but rows is None"):
        predict_logits(network, claims)


def test_the_progress_bar_shows_score_throughput_and_why_it_stopped(model: ModelSpec, claims: Dataset):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=200)
    fit(quick(model, epochs=20), claims, progress=ProgressBar(console), callbacks=[At({60: Stop("enough")})])
    shown = screen.getvalue()
    assert "/80 steps" in shown
    assert "examples/s" in shown
    assert "accuracy 0." in shown
    assert "stopped after 60 steps (enough)" in shown


def test_without_a_terminal_progress_is_a_line_for_each_evaluation(model: ModelSpec, claims: Dataset):
    screen = io.StringIO()
    fit(quick(model), claims, progress=ProgressBar(Console(file=screen, width=200), title="fit"))
    assert [line.split(",")[0] for line in screen.getvalue().splitlines() if line] == ["fit: step 4", "fit: step 8"]


def test_a_stopped_trainer_can_be_asked_to_go_on(model: ModelSpec, claims: Dataset, folder: Path):
    progress = StopAfter(3)
    progress.trainer = Trainer(quick(model), claims, device="cpu", checkpoints=folder, progress=progress)
    assert progress.trainer.fit().steps == 3
    assert progress.trainer.fit().stopped == "finished"


def test_a_model_of_one_modality_does_not_have_the_others_read(model: ModelSpec, claims: Dataset):
    text_only = ModelSpec(dim=8, encoders={"text": model.encoders["text"]}).build(claims.signature)
    (batch,) = dataset_batches(claims, claims.rows("steer"), batch_size=1000, modalities=modalities_of(text_only))
    assert set(batch.inputs) == set(batch.present) == {"text"}
    assert modalities_of(torch.nn.Linear(1, 1)) is None


def test_a_source_is_prepared_with_default_settings(tmp_path: Path, model: ModelSpec, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHIASMA_CACHE", str(tmp_path / "cache"))
    rows = [f'{{"id": {n}, "text": "{"good" if n % 2 else "bad"} number {n}", "label": {n % 2}}}' for n in range(120)]
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows))
    text_only = ModelSpec(dim=8, encoders={"text": model.encoders["text"]})
    trainer = Trainer(quick(text_only), tmp_path / "reviews.jsonl", device="cpu")
    assert trainer.fit().stopped == "finished"
    assert trainer.data.folder.is_relative_to(tmp_path / "cache")
