"""The closing table on the terminal, in the words of the report."""

import rich.box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from chiasma.experiment.checks import summary_lines
from chiasma.experiment.report.proposing import proposing_lines
from chiasma.experiment.report.wording import NONE, amount, gain_interval, headline, interval, large, metric_words
from chiasma.experiment.results import Arm, Gain, Results

VERDICT_STYLES = {"better": "green", "worse": "red", "no difference": "yellow"}


def render_table(results: Results) -> RenderableType:
    """Return floors, control, finalists and winner with intervals and gains, and below them the headline and notes."""
    tested = any(arm.test for arm in results.arms)
    gains = {gain.against: gain for gain in results.gains}
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", overflow="fold")
    table.add_column("role")
    table.add_column(f"{metric_words(results.metric)} on select", justify="right")
    if tested:
        table.add_column("on test (interval)", justify="right")
        table.add_column("winner's gain (interval)", justify="right")
        table.add_column("verdict")
    table.add_column("parameters", justify="right")
    for arm in results.arms:
        table.add_row(*_cells(results, arm, gains.get(arm.name), tested=tested), style=_style(results, arm))
    parts = [Text(line) for line in slice_lines(results)]
    made = [Text(f"{title}: {'; '.join(lines)}.") for title, lines in proposing_lines(results.proposing)]
    notes = [Text(f"· {note}", style="dim") for note in (*results.notes, *summary_lines(results.checks))]
    return Group(table, Text(headline(results), style="bold"), *parts, *made, *notes)


def slice_lines(results: Results) -> list[str]:
    """Return a line for each column by which results are shown apart."""
    found: dict[str, list[str]] = {}
    for row in results.slices:
        score = NONE if row["score"] is None else amount(results.metric, row["score"])
        found.setdefault(row["slice"], []).append(f"{row['value']} {score} ({row['count']:,})")
    return [f"by {name}: {', '.join(parts)}" for name, parts in found.items()]


def _cells(results: Results, arm: Arm, gain: Gain | None, *, tested: bool) -> list[Text]:
    select = arm.select.get(results.metric)
    cells = [Text(arm.name), Text(arm.role), Text(NONE if select is None else amount(results.metric, select))]
    if tested:
        test = arm.test.get(results.metric)
        cells.append(Text(NONE if test is None else interval(results.metric, test)))
        cells.append(Text(gain_interval(gain) if gain else ""))
        cells.append(Text(gain.verdict, style=VERDICT_STYLES[gain.verdict]) if gain else Text(""))
    return [*cells, Text(large(arm.parameters))]


def _style(results: Results, arm: Arm) -> str:
    return "bold" if arm.name == results.winner else ""
