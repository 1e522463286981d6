"""What a run or an evaluation ends with."""

import typer

from chiasma.cli.display import output, table
from chiasma.experiment.evaluate_run import Evaluation
from chiasma.experiment.report.console import render_table
from chiasma.experiment.results import RunResult


def print_run(result: RunResult) -> None:
    """Print what a run found and where it lies; leave with 130 where the user stopped it before the end."""
    output().print(render_table(result.results))
    typer.echo(f"report  {result.report_path}")
    typer.echo(f"model   {result.model_path}")
    if result.stopped == "interrupted":
        typer.echo(f"Interrupted, with the best so far. Continue: chiasma resume {result.run_path}", err=True)
        raise typer.Exit(130)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print each metric of a saved model with its interval."""
    title = f"{evaluation.source}, {evaluation.split}: {evaluation.examples:,} examples in {evaluation.groups:,} groups"
    rows = [(name, interval.value, interval.low, interval.high) for name, interval in evaluation.metrics.items()]
    table(["metric", "value", "low", "high"], rows, title=title)
    if evaluation.per_label:
        columns = list(evaluation.per_label[0])
        table(columns, [[row[name] for name in columns] for row in evaluation.per_label], title="By label")
    if evaluation.calibration is not None:
        before, after = evaluation.calibration.expected_error_before, evaluation.calibration.expected_error_after
        typer.echo(f"expected calibration error {after:.4f} (without calibration {before:.4f})")
