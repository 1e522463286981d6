"""What a search for one part of a design found, as a table for the terminal, drawings, and one HTML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.markup import escape
from rich.table import Table

from chiasma.core.files import storage_errors, write_atomic
from chiasma.experiment.front import Described, Elsewhere, Front
from chiasma.experiment.report.charts import score_against_cost
from chiasma.experiment.report.drawing import draw
from chiasma.experiment.report.page import page
from chiasma.experiment.report.proposing import gain_lines, proposing_lines
from chiasma.experiment.report.wording import difference, interval, large, latency, metric_words
from chiasma.experiment.results import Interval
from chiasma.model.fusion import Composed, Generated
from chiasma.model.fusion.composed.source import source_of
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.source import module_source


@dataclass(frozen=True)
class Words:
    """What is said of the part that was searched.

    Attributes:
        one: A candidate.
        many: Candidates.
        standard: What gains are measured against.
    """

    one: str
    many: str
    standard: str


ATTENTION = Words("mechanism", "mechanisms", "standard attention")
FUSION = Words("fusion", "fusions", "concatenation")


def words_of(front: Front) -> Words:
    """Return what is said of the part that a front is about."""
    return FUSION if front.slot == "fusion" else ATTENTION


@dataclass(frozen=True)
class Picture:
    """How a candidate is shown.

    Attributes:
        drawing: Its graph; None for source, which has none.
        source: A PyTorch module.
        remark: What else there is to say of it.
    """

    drawing: Markup | None
    source: str
    remark: str


def picture(part: Mapping[str, Any]) -> Picture:
    """Return how the part of a candidate is shown.

    Args:
        part: The spec that a config takes.
    """
    if part["kind"] == "generated":
        sha256 = Generated.from_dict(part).sha256
        return Picture(None, part["source"], f"Source {sha256}, run in the jail until approved with --trust.")
    if part["kind"] == "composed":
        fusion = Composed.from_dict(part)
        return Picture(draw(fusion.tree), source_of(fusion), f"Dropout: {fusion.dropout:g}.")
    attention = GraphAttention.from_dict(part)
    learned = ", ".join(attention.projections.learned) or "none"
    return Picture(draw(attention.graph), module_source(attention), f"Learned projections: {learned}.")


def front_table(front: Front) -> Table:
    """Return the judged candidates as a table for the terminal; a star marks the front."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    said = words_of(front)
    for name in (
        "",
        said.one,
        f"{metric_words(front.metric)} on select (interval)",
        f"over {front.standard} (interval)",
        "",
    ):
        table.add_column(name, overflow="fold")
    for name in front.companions:
        table.add_column(f"on {name}", overflow="fold")
    for name in (*front.costs, "seeds"):
        table.add_column(name, justify="right")
    for each in front.mechanisms:
        cells = [
            f"{each.name}{'*' if each.on_front else ''}",
            formula_words(each),
            interval(front.metric, each.score),
            gain_words(each.gain, front.metric),
            each.standing or "",
            *(elsewhere_words(each.elsewhere[name]) for name in front.companions),
            *(cost_words(name, each.objectives[name]) for name in front.costs),
            str(each.seeds),
        ]
        table.add_row(*(escape(cell) for cell in cells))
    return table


def formula_words(each: Described) -> str:
    """Return a candidate's formula, and what it is known as."""
    return f"{each.formula}, {each.known}" if each.known else each.formula


def headline(front: Front) -> str:
    """Return what the search came to, in one sentence."""
    best, standard, said = front.best, front.named(front.standard), words_of(front)
    if best is None or best.gain is None or standard is None:
        return f"{front.candidates} {said.many} were tried, and none was compared with {said.standard}."
    costs = [f"{best.objectives[name] / standard.objectives[name]:.2f} times the {name}" for name in front.costs]
    at = f", at {' and '.join(costs)}" if costs else ""
    gain = gain_words(best.gain, front.metric)
    if not front.fresh:
        return f"The best so far is {best.name}, {gain} over {said.standard}{at}, not judged on fresh seeds."
    known = f" It is {best.known}." if best.known else ""
    if best.standing == "ahead":
        luck = " on one fresh seed, which says nothing of the luck of training" if best.seeds == 1 else ""
        ahead = f"{best.name} is ahead of {said.standard} by {gain}{at}, on the rows that chose it{luck}.{known}"
        return f"{ahead} chiasma benchmark --candidate {front.run}{best.name} says whether that holds on test."
    return (
        f"No {said.one} is ahead of {said.standard} beyond doubt: the best of {front.candidates}, {best.name}, "
        f"is {gain} over it{at}.{known}"
    )


def closing_lines(front: Front) -> list[str]:
    """Return the sentences below the table."""
    lines = ["* on the front: no other is better in one objective and no worse in the rest."]
    if front.attention_matters is not None:
        gain = front.attention_matters
        lines.append(
            f"Standard attention over the mean of the values: {gain_words(gain, front.metric)}; "
            f"attention {'matters' if gain.low > 0 else 'is not shown to matter'} here."
        )
    mean = front.named("mean")
    for name, found in ({} if mean is None else mean.elsewhere).items():
        if found.gain is not None:
            better = difference(found.metric, found.gain)
            matters = "matters" if found.standing == "behind" else "is not shown to matter"
            lines.append(f"On {name} the mean of the values is {better} over standard: attention {matters} there.")
    for title, told in (*gain_lines(front.gains), *proposing_lines(front.proposing)):
        lines.append(f"{title}: {'; '.join(told)}.")
    return lines + [f"· {note}" for note in front.notes]


def gain_words(gain: Interval | None, metric: str) -> str:
    """Return a gain with its interval: ``3.1 points (2.0 to 4.2)``; a dash where nothing was compared."""
    return "–" if gain is None else difference(metric, gain)


def elsewhere_words(found: Elsewhere) -> str:
    """Return what a candidate came to on a further task: ``85.1 % (84.0 to 86.2), better by ...``."""
    if found.gain is None:
        return interval(found.metric, found.score)
    return f"{interval(found.metric, found.score)}; {difference(found.metric, found.gain)}, {found.standing}"


def cost_words(name: str, value: float) -> str:
    """Return a cost as a reader says it."""
    return latency(value) if name == "latency" else large(value)


def write_drawings(front: Front, folder: Path) -> None:
    """Write one SVG and one Python file for each candidate that was judged or stood on the search's own front.

    They are named by the candidate's number.

    Raises:
        StorageError: The folder cannot be written to.
    """
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    for each in (*front.discovered, *front.unjudged):
        shown = picture(each.part)
        if shown.drawing is not None:
            write_atomic(folder / f"{each.candidate}.svg", str(shown.drawing))
        write_atomic(folder / f"{each.candidate}.py", shown.source)


def write_front_report(front: Front, path: Path) -> Path:
    """Write the report atomically and return its path.

    Raises:
        StorageError: The folder cannot be written to.
    """
    text = page(
        "front.html.j2",
        front=front,
        said=words_of(front),
        proposing=[*gain_lines(front.gains), *proposing_lines(front.proposing)],
        pictures={each.name: picture(each.part) for each in (*front.discovered, *front.unjudged)},
        lines=[line.removeprefix("· ") for line in closing_lines(front)],
        headline=headline(front),
        formula_words=formula_words,
        interval=interval,
        gain_words=gain_words,
        cost_words=cost_words,
        elsewhere_words=elsewhere_words,
        chart=score_against_cost(front),
    )
    write_atomic(path, text)
    return path
