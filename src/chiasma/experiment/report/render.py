"""The report: one HTML file that opens without a network and runs no script."""

from dataclasses import dataclass
from pathlib import Path

from chiasma.core.files import write_atomic
from chiasma.experiment.report import (
    anatomy,
    background,
    charts,
    controller,
    failures,
    growth,
    quality,
    search,
    wording,
)
from chiasma.experiment.report.page import page
from chiasma.experiment.report.proposing import proposing_lines
from chiasma.experiment.results import Results

CONTENTS = (
    ("quality", "How good is it?"),
    ("what", "What is it?"),
    ("search", "What did the search do?"),
    ("training", "How did it train?"),
    ("failures", "Where does it fail?"),
    ("data", "Can I trust the data?"),
    ("use", "Repeat and use it"),
)


@dataclass(frozen=True)
class Extras:
    """What the results do not know.

    Attributes:
        model_folder: Where the saved model lies, for the snippet.
    """

    model_folder: str | None = None


def render(results: Results, *, extras: Extras | None = None) -> str:
    """Return the report as HTML; the same results give the same text.

    Args:
        results: What a run found.
        extras: What the results do not know.
    """
    folder = extras.model_folder if extras else None
    return page(
        "template.html.j2",
        results=results,
        contents=CONTENTS,
        wording=wording,
        charts=charts,
        controller=controller,
        growth=growth,
        quality=quality,
        anatomy=anatomy,
        search=search,
        failures=failures,
        proposing=proposing_lines(results.proposing),
        background=background,
        model_folder=folder or f"runs/{results.run}/model",
    )


def write_report(results: Results, path: Path, *, extras: Extras | None = None) -> Path:
    """Write the report atomically and return its path; by default the model lies beside it.

    Raises:
        StorageError: The folder cannot be written to.
    """
    beside = extras or Extras(model_folder=str(path.parent / "model"))
    write_atomic(path, render(results, extras=beside))
    return path
