"""The table with which a run ends."""

import shutil
from typing import Any

import typer

from chiasma.cli.display import output, table
from chiasma.experiment.compare import interval_words
from chiasma.experiment.evaluate_run import Evaluation
from chiasma.experiment.results import Arm, Results, RunResult
from chiasma.experiment.sealed import opening_words


def print_run(result: RunResult) -> None:
    """Print what a run found and where it lies; leave with 130 where it was interrupted without a model."""
    print_results(result.results)
    typer.echo(f"report  {result.report_path}")
    typer.echo(f"model   {result.model_path}")
    if result.stopped == "interrupted":
        typer.echo(f"Interrupted. Continue: chiasma resume {result.run_path}", err=True)


def print_results(results: Results) -> None:
    """Print floors, candidates, the winner, and its gain with intervals."""
    metric = results.metric
    tested = any(arm.test for arm in results.arms)
    gains = {gain.against: gain for gain in results.gains}
    rows: list[list[Any]] = []
    for arm in results.arms:
        gain = gains.get(arm.name)
        row: list[Any] = [arm.name, arm.role, _select(arm, metric)]
        if tested:
            row.append(interval_words(arm.test[metric]) if metric in arm.test else None)
            row.append(interval_words(gain.gain) if gain else None)
            row.append(gain.verdict if gain else None)
        rows.append([*row, arm.parameters])
    judged = [f"{metric} on test", "winner's gain", "verdict"] if tested else []
    table(["arm", "role", f"{metric} on select", *judged, "parameters"], rows)
    for note in results.notes:
        output().print(f"- {note}", markup=False, soft_wrap=shutil.get_terminal_size().columns < 60)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print each metric of a saved model with its interval."""
    title = f"{evaluation.source}, {evaluation.split}: {evaluation.examples:,} examples in {evaluation.groups:,} groups"
    rows = [(name, interval.value, interval.low, interval.high) for name, interval in evaluation.metrics.items()]
    table(["metric", "value", "low", "high"], rows, title=title)
    if evaluation.opening is not None:
        output().print(opening_words(evaluation.opening), markup=False, soft_wrap=True)


def _select(arm: Arm, metric: str) -> float | None:
    return arm.select.get(metric)
