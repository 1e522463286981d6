"""Where does it fail: by label, and which is taken for which."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chiasma.experiment.report import wording
from chiasma.experiment.report.rows import Table
from chiasma.experiment.results import Interval, Results

MOST_LABELS = 200


def labels(results: Results) -> Table:
    """Return how the winner does on each label, the hardest first."""
    if not results.per_label:
        return Table("", (), ())
    first = results.per_label[0]
    keys = [key for key in ("count", "recall", "precision", "f1", "mae", "rmse", "r2") if key in first]
    hardest = "recall" if "recall" in first else keys[-1]
    ordered = sorted(results.per_label, key=lambda row: (row.get(hardest) is None, row.get(hardest) or 0.0))
    rows = tuple((str(row["label"]), *(_cell(key, row.get(key)) for key in keys)) for row in ordered[:MOST_LABELS])
    more = f" ({MOST_LABELS} of {len(ordered)})" if len(ordered) > MOST_LABELS else ""
    columns = ("label", *(("F1" if key == "f1" else key) for key in keys))
    return Table(
        f"The winner on each label of the test split, hardest first{more}", columns, rows, frozenset(columns[1:])
    )


def slices(results: Results) -> Table:
    """Return how the winner does on the rows with each value of the data's slices."""
    if not results.slices:
        return Table("", (), ())
    split = "test split" if results.test_examples else "select split"
    rows = tuple(
        (str(row["slice"]), str(row["value"]), f"{row['count']:,}", _score(results.metric, row))
        for row in results.slices
    )
    columns = ("column", "value", "examples", f"{wording.metric_words(results.metric)} (interval)")
    return Table(f"The winner on parts of the {split}", columns, rows, frozenset(columns[2:]))


def _score(metric: str, row: Mapping[str, Any]) -> str:
    if row["score"] is None:
        return wording.NONE
    return wording.interval(metric, Interval(value=row["score"], low=row["low"], high=row["high"]))


@dataclass(frozen=True)
class Confusion:
    """Which labels were given which answers.

    Attributes:
        labels: Names, for rows and columns alike.
        rows: For each label its cells: count, share of the row in 0..1.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[tuple[int, float], ...], ...]


def confusion(results: Results) -> Confusion | None:
    """Return the confusion matrix with shares of each row, or None where there is none."""
    names = tuple(str(row["label"]) for row in results.per_label)
    if not results.confusion or len(names) != len(results.confusion):
        return None
    rows = tuple(tuple((n, n / max(1, sum(row))) for n in row) for row in results.confusion)
    return Confusion(names, rows)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return wording.NONE
    if key == "count":
        return f"{value:,}"
    return f"{100 * value:.1f} %" if key in ("recall", "precision", "f1") else wording.number(float(value))
