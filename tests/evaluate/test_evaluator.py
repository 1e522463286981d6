"""A job with further tasks: one outcome of all of them, under one limit."""

from chiasma.core.outcome import Rejected, Scored
from chiasma.core.spec import replace_at
from chiasma.evaluate.evaluator import Evaluator, joined
from chiasma.evaluate.tasks import Task
from tests.evaluate.test_trial import LINEAR


def scored(error: float, **metrics: float) -> Scored:
    return Scored(objectives={"error": error}, metrics={"train_seconds": 1.0, "cut_short": 0.0, **metrics})


def test_the_errors_of_all_tasks_stand_beside_each_other():
    outcome = joined(scored(0.1, steps=4.0), "imdb", scored(0.2, steps=9.0, cut_short=1.0))
    assert outcome.objectives == {"error": 0.1, "error@imdb": 0.2}
    assert (outcome.metrics["steps"], outcome.metrics["steps@imdb"]) == (4.0, 9.0)
    assert outcome.metrics["train_seconds"] == 2.0
    assert outcome.metrics["cut_short"] == 1.0


def test_what_is_rejected_on_one_task_is_rejected_and_says_where():
    outcome = joined(scored(0.1), "imdb", Rejected(stage="train", reason="the loss is NaN"))
    assert outcome == Rejected(stage="train", reason="the loss is NaN (imdb)")


def test_a_worker_trains_a_job_on_all_its_tasks(claims, tmp_path):
    task = Task(dataset=str(claims.folder), metric="accuracy", objectives=("error",))
    other = task.job("a@other", LINEAR, seed=2, keep_checkpoint=str(tmp_path / "other"))
    outcome = Evaluator()(task.job("a", LINEAR, seed=1, also={"other": other}))
    alone = Evaluator()(task.job("b", LINEAR, seed=2))
    assert outcome.objectives["error@other"] == alone.objectives["error"]
    assert (tmp_path / "other").is_dir()


def test_the_limit_of_a_job_is_for_all_its_tasks(claims):
    task = Task(dataset=str(claims.folder), metric="accuracy", objectives=("error",))
    endless = replace_at(LINEAR, "training.loop.epochs", 5000.0)
    job = task.job("a", LINEAR, seed=0, also={"other": task.job("a@other", endless, seed=0)}, time_limit_seconds=20.0)
    outcome = Evaluator()(job)
    assert isinstance(outcome, Rejected)
    assert outcome.stage == "deadline"
    assert outcome.reason.endswith("(other)")
