"""What a run or an evaluation ends with."""

import typer

from chiasma.cli.display import output, table
from chiasma.experiment.benchmark import BenchmarkResult
from chiasma.experiment.checks import summary_lines
from chiasma.experiment.evaluate_run import Evaluation
from chiasma.experiment.meta_train import MetaResult
from chiasma.experiment.part_result import SearchResult
from chiasma.experiment.report.benchmark import task_table
from chiasma.experiment.report.console import render_table
from chiasma.experiment.report.front import closing_lines, front_table, headline
from chiasma.experiment.results import RunResult
from chiasma.experiment.runs import BENCHMARK_FILE, FRONT_FILE


def print_result(result: RunResult | SearchResult | BenchmarkResult | MetaResult | None) -> None:
    """Print what a run of any verb ended with; nothing where another process has the result."""
    if result is None:
        return
    if isinstance(result, SearchResult):
        print_search(result)
    elif isinstance(result, BenchmarkResult):
        print_benchmark(result)
    elif isinstance(result, MetaResult):
        print_controller(result)
    else:
        print_run(result)


def print_run(result: RunResult) -> None:
    """Print what a run found and where it lies; leave with 130 where the user stopped it before the end."""
    output().print(render_table(result.results))
    typer.echo(f"report  {result.report_path}")
    typer.echo(f"model   {result.model_path}")
    if result.stopped == "interrupted":
        typer.echo(f"Interrupted, with the best so far. Continue: chiasma resume {result.run_path}", err=True)
        raise typer.Exit(130)


def print_search(result: SearchResult) -> None:
    """Print the judged mechanisms and where they lie; leave with 130 where the user stopped the search."""
    output().print(front_table(result.front))
    output().print(headline(result.front), markup=False, soft_wrap=True)
    for line in closing_lines(result.front):
        output().print(line, markup=False, soft_wrap=True)
    typer.echo(f"front   {result.run_path / FRONT_FILE}")
    typer.echo(f"report  {result.run_path / 'report.html'}")
    if result.use:
        typer.echo(f"use it  chiasma train --set {result.use}")
    if result.stopped == "interrupted":
        typer.echo(f"Interrupted, with the best so far. Continue: chiasma resume {result.run_path}", err=True)
        raise typer.Exit(130)


def print_benchmark(result: BenchmarkResult) -> None:
    """Print every task's arms with intervals and verdicts."""
    found = result.benchmark
    typer.echo(f"candidate {found.candidate}: {found.formula}")
    for task in found.tasks:
        output().print(task_table(task))
    for note in found.notes:
        output().print(f"· {note}", markup=False, soft_wrap=True)
    typer.echo(f"figures {result.run_path / BENCHMARK_FILE}")


def print_controller(result: MetaResult) -> None:
    """Print where a learned controller lies and how it is used; leave with 130 where the user stopped it."""
    trainings = "1 training" if result.runs == 1 else f"{result.runs} trainings"
    typer.echo(f"controller  {result.folder}, {result.content}, learned from {trainings}")
    typer.echo(f"use it      chiasma train --set controller.kind=lstm controller.start={result.folder}")
    if result.stopped == "interrupted":
        typer.echo(f"Interrupted, with what was learned so far. Continue: chiasma resume {result.run_path}", err=True)
        raise typer.Exit(130)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print each metric of a saved model with its interval."""
    title = f"{evaluation.source}, {evaluation.split}: {evaluation.examples:,} examples in {evaluation.groups:,} groups"
    rows = [(name, interval.value, interval.low, interval.high) for name, interval in evaluation.metrics.items()]
    table(["metric", "value", "low", "high"], rows, title=title)
    if evaluation.per_label:
        columns = list(evaluation.per_label[0])
        table(columns, [[row[name] for name in columns] for row in evaluation.per_label], title="By label")
    if evaluation.slices:
        columns = list(evaluation.slices[0])
        title = f"By {', '.join(dict.fromkeys(row['slice'] for row in evaluation.slices))} ({evaluation.slice_metric})"
        table(columns, [[row[name] for name in columns] for row in evaluation.slices], title=title)
    if evaluation.calibration is not None:
        before, after = evaluation.calibration.expected_error_before, evaluation.calibration.expected_error_after
        typer.echo(f"expected calibration error {after:.4f} (without calibration {before:.4f})")
        if evaluation.split == "select":
            typer.echo("Calibration was fitted on select, where its figures look better than on other rows.")
    verdicts = {True: "passed", False: "failed", None: "-"}
    checked = [(check.name, verdicts[check.passed], check.value, check.threshold) for check in evaluation.checks]
    table(["check", "verdict", "value", "threshold"], checked, title="Checks of the predictions")
    for line in summary_lines(evaluation.checks):
        typer.echo(line)
