"""One task of a benchmark as a table for the terminal."""

from rich import box
from rich.markup import escape
from rich.table import Table

from chiasma.experiment.benchmark_judge import TaskResult
from chiasma.experiment.report.wording import gain_interval, interval, large, metric_words


def task_table(task: TaskResult) -> Table:
    """Return the arms of a task: the candidate first, then what it is compared with, then classical floors."""
    slot = f" ({task.slot})" if task.slot else ""
    title = f"{task.task}{slot}, {task.test_examples:,} test examples, {metric_words(task.metric)}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("arm", "on test (interval)", "candidate's gain (interval)", "verdict"):
        table.add_column(name, overflow="fold")
    for name in ("width", "FLOPs", "parameters", "seconds", "seeds"):
        table.add_column(name, justify="right")
    for arm in task.arms:
        same = f" (= {arm.same_as})" if arm.same_as else ""
        cells = [
            arm.name + same,
            "diverged" if arm.test is None else interval(task.metric, arm.test),
            "" if arm.gain is None else gain_interval(arm.gain),
            "" if arm.gain is None else arm.gain.verdict,
            "–" if arm.dim is None else str(arm.dim),
            large(arm.flops),
            large(arm.parameters),
            f"{arm.seconds:.0f}",
            str(arm.seeds),
        ]
        table.add_row(*(escape(cell) for cell in cells))
    return table
