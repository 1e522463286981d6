"""``show``, ``report``, ``compare`` and ``list``: the verbs that look at runs."""

from typing import Annotated

import typer

from chiasma.cli.options import Debug, RunArgument, RunFolder, examples


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command(epilog=examples("chiasma show latest", "chiasma show evolve-20260312#7"))(show)
    app.command(epilog=examples("chiasma report latest"))(report)
    app.command(epilog=examples("chiasma compare evolve-20260312 latest"))(compare)
    group = typer.Typer(help="List runs or components.", no_args_is_help=True, rich_markup_mode="rich")
    group.command("runs", epilog=examples("chiasma list runs"))(list_runs)
    group.command("components", epilog=examples("chiasma list components"))(list_components)
    app.add_typer(group, name="list")


def show(
    run: Annotated[str, typer.Argument(metavar="RUN#K", help="A run, for its winner; with #K, its candidate K.")],
    run_folder: RunFolder = None,
    debug: Debug = False,
) -> None:
    """Show the winner or a candidate: its design, what it costs, where it comes from, how it did."""
    from chiasma.cli.display import output, pairs, table
    from chiasma.cli.mechanism_view import print_fusion, print_generated, print_making, print_mechanism
    from chiasma.experiment.design_words import describe_design, outcome_words
    from chiasma.experiment.runs import (
        costs,
        find_folder,
        mechanisms,
        searched_fusion,
        split_reference,
        story,
    )
    from chiasma.model.fusion import Generated

    reference, number = split_reference(run)
    folder = find_folder(reference, run_folder)
    found = story(folder, number)
    output().print(found.title, markup=False, soft_wrap=True)
    pairs(describe_design(found.design) | costs(folder, found.design, task=found.task))
    for place, mechanism in mechanisms(found.design).items():
        print_mechanism(place, mechanism)
    fusion = searched_fusion(found.design)
    if isinstance(fusion, Generated):
        print_generated(fusion)
    elif fusion is not None:
        print_fusion(fusion)
    print_making(found.rewards, found.conversation)
    if found.ancestors:
        table(["ancestor", "proposer", "edit"], found.ancestors, title="Lineage, youngest first")
    if found.jobs:
        lines = [(job.purpose, job.rung, str(job.seed), job.seconds, outcome_words(job.outcome)) for job in found.jobs]
        table(["purpose", "rung", "seed", "seconds", "outcome"], lines, title="Trainings")


def report(run: RunArgument, run_folder: RunFolder = None, debug: Debug = False) -> None:
    """Write a run's report again from its recorded results, and print the path."""
    from chiasma.experiment.runs import find_folder, rewrite_report

    typer.echo(rewrite_report(find_folder(run, run_folder)))


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="The run that is asked about.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The run it is compared with.")],
    run_folder: RunFolder = None,
    debug: Debug = False,
) -> None:
    """Compare the winners of two runs: paired by example where both predicted the same test split."""
    from chiasma.cli.display import output, table
    from chiasma.experiment.compare import compare as compare_runs
    from chiasma.experiment.runs import find_folder

    comparison = compare_runs(find_folder(first, run_folder), find_folder(second, run_folder))
    table(["", *comparison.names], comparison.rows)
    output().print(comparison.words, markup=False, soft_wrap=True)


def list_runs(run_folder: RunFolder = None, debug: Debug = False) -> None:
    """List the runs in the runs folder, oldest first."""
    from chiasma.cli.display import output, table
    from chiasma.experiment.runs import summaries

    found = summaries(run_folder)
    if not found:
        output().print("No runs yet. Start one: chiasma evolve --budget 3m")
        return
    rows = [(r.id, r.status, r.source, r.candidates, r.winner, r.metric, r.score) for r in found]
    table(["run", "status", "data", "candidates", "winner", "measured", "score"], rows)


def list_components(debug: Debug = False) -> None:
    """List what designs are made of, with third parties' plugins."""
    from chiasma.cli.display import table
    from chiasma.experiment.components import components

    rows = [(c.part, c.name, c.summary, c.origin) for c in components()]
    table(["part", "kind", "what it is", "from"], rows)
