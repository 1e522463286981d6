"""What trackers are shown of a training, and that nothing they do can harm it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from chiasma.data.dataset import Dataset
from chiasma.model.multimodal import ModelSpec
from chiasma.train.callbacks import EditModel
from chiasma.train.design import Design, LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.progress import SharedProgress, StepTaken
from chiasma.train.trackers import End, TrackedTraining, Tracker
from chiasma.train.trainer import Fit, Trainer
from tests.train.toys import At, StopAfter


class Recorder(Tracker):
    """Remembers what it is told; fails from one step on, as another's program might."""

    place = "memory"

    def __init__(self, name: str = "recorder", *, fails_at: int | None = None) -> None:
        self.name = name
        self.rows: dict[int, dict[str, float]] = {}
        self.events: dict[int, list[str]] = {}
        self.summary: dict[str, Any] = {}
        self.ends: list[End] = []
        self.calls = 0
        self._fails_at = fails_at

    def log(self, values: Mapping[str, float], *, step: int, events: Sequence[str] = ()) -> None:
        self.calls += 1
        if self._fails_at is not None and step >= self._fails_at:
            raise ConnectionResetError("the server\nis gone")
        assert step not in self.rows
        self.rows[step] = dict(values)
        self.events[step] = list(events)

    def summarise(
        self,
        values: Mapping[str, Any],
        *,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        files: Mapping[str, Path],
    ) -> None:
        self.summary = {**values, **tables}

    def close(self, end: End) -> None:
        self.ends.append(end)


def short(model: ModelSpec, **loop) -> Design:
    """Return a design of sixteen steps with four evaluations."""
    spec = LoopSpec.from_dict({"epochs": 4, "batch_size": 64, "evaluations": 4, **loop})
    return Design(model=model, training=TrainingSpec(optim=OptimSpec(lr=5e-3), loop=spec))


def fit(design: Design, data: Dataset, *trackers: Tracker, every: int = 3, **arguments) -> Fit:
    with TrackedTraining(trackers, every_steps=every) as tracked:
        return Trainer(design, data, device="cpu", progress=tracked, **arguments).fit()


def at_step(step: int) -> StepTaken:
    return StepTaken(step=step, epoch=step / 4, examples=64, loss=0.5, gradient_norm=1.0, rate=1e-3)


def test_the_train_figures_come_every_so_many_steps_and_the_others_with_each_evaluation(
    model: ModelSpec, claims: Dataset
):
    recorder = Recorder()
    done = fit(short(model), claims, recorder)
    assert [row["step"] for row in done.history] == [4, 8, 12, 16]
    assert sorted(recorder.rows) == [3, 4, 6, 8, 9, 12, 15, 16]
    names = {"epoch", *(f"train/{name}" for name in ("loss", "learning_rate", "gradient_norm", "examples_per_second"))}
    assert set(recorder.rows[3]) == names
    assert recorder.rows[3]["epoch"] == 0.75
    assert names < set(recorder.rows[4])


def test_what_is_shown_of_an_evaluation_is_what_the_history_holds(model: ModelSpec, claims: Dataset):
    recorder = Recorder()
    done = fit(short(model), claims, recorder)
    for row in done.history:
        shown = recorder.rows[int(row["step"])]
        metrics = {name: value for name, value in row.items() if name not in ("step", "epoch", "rate", "train_loss")}
        assert {name: shown[f"val/{name}"] for name in metrics} == metrics
        place = ("epoch", "train/learning_rate", "train/loss_mean")
        assert [shown[name] for name in place] == [row["epoch"], row["rate"], row["train_loss"]]


def test_the_best_values_so_far_only_get_better(model: ModelSpec, claims: Dataset):
    recorder = Recorder()
    done = fit(short(model), claims, recorder, metric="log_loss")
    for position, row in enumerate(done.history, start=1):
        shown, so_far = recorder.rows[int(row["step"])], done.history[:position]
        assert shown["val/best_auc"] == max(past["auroc"] for past in so_far)
        assert shown["val/best_log_loss"] == min(past["log_loss"] for past in so_far)
    assert not [name for name in recorder.rows[16] if name in ("val/best_auroc", "val/best_accuracy")]


def test_a_step_is_shown_once_with_everything_that_happened_in_it(model: ModelSpec, claims: Dataset):
    recorder = Recorder()
    edits = {4: EditModel({"add": "newcomer"}, reason="birth of newcomer: try it")}
    fit(short(model), claims, recorder, callbacks=[At(edits)])
    assert recorder.events[4] == ["birth of newcomer: try it"]
    assert "val/accuracy" in recorder.rows[4]
    assert [step for step, events in recorder.events.items() if events] == [4]


def test_an_event_between_evaluations_is_shown_at_its_step(model: ModelSpec, claims: Dataset):
    recorder = Recorder()
    edits = {5: EditModel({"add": "newcomer"}, reason="birth")}
    fit(short(model), claims, recorder, callbacks=[At(edits)])
    assert recorder.events[5] == ["birth"]
    assert "train/loss" in recorder.rows[5]


def test_the_throughput_leaves_out_the_time_of_evaluations(monkeypatch: pytest.MonkeyPatch):
    recorder = Recorder()
    tracked = TrackedTraining([recorder], every_steps=2)
    clock = iter([0.0, 1.0, 2.0, 102.0, 103.0, 104.0, 105.0])
    monkeypatch.setattr("chiasma.train.trackers.time.monotonic", lambda: next(clock))
    tracked.start(5, done=0, history=())
    tracked.advance(at_step(1))
    tracked.advance(at_step(2))
    tracked.evaluated({"step": 2, "epoch": 1, "rate": 0.1, "train_loss": 1.0, "accuracy": 0.5}, metric="accuracy")
    for step in (3, 4, 5):
        tracked.advance(at_step(step))
    assert [recorder.rows[step]["train/examples_per_second"] for step in (2, 4)] == [64.0, 64.0]


def test_figures_that_are_not_finite_are_left_out():
    recorder = Recorder()
    tracked = TrackedTraining([recorder], every_steps=1)
    tracked.start(1, done=0, history=())
    tracked.advance(StepTaken(step=1, epoch=1, examples=8, loss=1.0, gradient_norm=float("inf"), rate=0.1))
    tracked.finish("finished")
    assert "train/gradient_norm" not in recorder.rows[1]
    assert recorder.rows[1]["train/loss"] == 1.0


def test_a_tracker_that_fails_is_told_nothing_more_with_one_warning(
    model: ModelSpec, claims: Dataset, caplog: pytest.LogCaptureFixture
):
    broken, well = Recorder("broken", fails_at=8), Recorder("well")
    with caplog.at_level(logging.WARNING, "chiasma"):
        done = fit(short(model), claims, broken, well)
    assert (done.stopped, done.steps) == ("finished", 16)
    said = "broken failed and is told nothing more; the training goes on. ConnectionResetError: the server is gone"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert sorted(broken.rows) == [3, 4, 6]
    assert broken.calls == 4
    assert sorted(well.rows) == [3, 4, 6, 8, 9, 12, 15, 16]


def test_trackers_change_nothing_in_a_training(model: ModelSpec, claims: Dataset):
    watched, alone = fit(short(model), claims, Recorder(fails_at=6)), fit(short(model), claims)
    assert watched.history == alone.history


@pytest.mark.parametrize("stop", [4, 6, 9])
def test_a_continued_training_shows_each_step_once_and_keeps_the_best(
    model: ModelSpec, claims: Dataset, folder: Path, tmp_path: Path, stop: int
):
    whole = Recorder()
    fit(short(model), claims, whole)
    parts = [Recorder(), Recorder()]
    for recorder in parts:
        stopping = StopAfter(stop)
        tracked = TrackedTraining([recorder], every_steps=3, mark=tmp_path / "mark")
        with tracked:
            progress = SharedProgress([tracked, stopping])
            trainer = Trainer(short(model), claims, device="cpu", progress=progress, checkpoints=folder)
            stopping.trainer = trainer
            trainer.fit()
    first, second = parts
    assert set(first.rows) & set(second.rows) == set()
    together = {**first.rows, **second.rows}
    best = {step: row["val/best_auc"] for step, row in together.items() if "val/best_auc" in row}
    assert best == {step: row["val/best_auc"] for step, row in whole.rows.items() if "val/best_auc" in row}
    losses = {step: row["train/loss"] for step, row in together.items() if "train/loss" in row}
    assert losses == {step: row["train/loss"] for step, row in whole.rows.items()}
    assert (first.ends, second.ends) == (["interrupted"], ["finished"])


def test_a_training_that_was_killed_repeats_steps_and_shows_them_once(
    model: ModelSpec, claims: Dataset, tmp_path: Path
):
    """Without checkpoints the second sitting repeats every step, as after a kill before the first one."""
    first, second = Recorder(), Recorder()
    stopping = StopAfter(10)
    for recorder, others in ((first, [stopping]), (second, [])):
        with TrackedTraining([recorder], every_steps=3, mark=tmp_path / "mark") as tracked:
            trainer = Trainer(short(model), claims, device="cpu", progress=SharedProgress([tracked, *others]))
            stopping.trainer = trainer
            trainer.fit()
    assert sorted(first.rows) == [3, 4, 6, 8, 9]
    assert sorted(second.rows) == [12, 15, 16]


def test_a_mark_that_was_cut_short_by_a_power_failure_is_no_obstacle(tmp_path: Path):
    (tmp_path / "mark").write_text("")
    recorder = Recorder()
    with TrackedTraining([recorder], every_steps=1, mark=tmp_path / "mark") as tracked:
        tracked.start(1, done=0, history=())
        tracked.advance(at_step(1))
        tracked.finish("finished")
    assert sorted(recorder.rows) == [1]
    assert int((tmp_path / "mark").read_text()) == 1


def test_a_mark_that_cannot_be_written_costs_a_warning_only(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    recorder = Recorder()
    with caplog.at_level(logging.WARNING, "chiasma"):
        tracked = TrackedTraining([recorder], every_steps=1, mark=tmp_path / "missing" / "mark")
        tracked.start(2, done=0, history=())
        for step in (1, 2):
            tracked.advance(at_step(step))
        tracked.finish("finished")
    assert sorted(recorder.rows) == [1, 2]
    assert len(caplog.records) == 1
    assert "may be shown some steps twice" in caplog.text


@pytest.mark.parametrize(
    ("error", "end"), [(None, "finished"), (ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_trackers_learn_how_the_training_ended(error: BaseException | None, end: End):
    recorder = Recorder()

    def run() -> None:
        with TrackedTraining([recorder]):
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    assert recorder.ends == [end]


def test_a_tracker_that_cannot_even_end_does_not_hide_what_the_training_came_to(caplog: pytest.LogCaptureFixture):
    class Stuck(Recorder):
        def close(self, end: End) -> None:
            raise TimeoutError(f"cannot say {end}")

    with caplog.at_level(logging.WARNING, "chiasma"):
        with TrackedTraining([Stuck()]) as tracked:
            tracked.summarise({"parameters": 3}, tables={}, files={})
        with pytest.raises(ValueError, match="the real error"), TrackedTraining([Stuck()]):
            raise ValueError("the real error")
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "cannot say finished",
        "cannot say failed",
    ]
