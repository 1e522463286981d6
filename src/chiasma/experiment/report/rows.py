"""Plain rows and facts: what sections hand to the template, which only lays them out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Attributes:
        caption: What the table shows, also for those who cannot see it.
        columns: Names; those in ``numeric`` are aligned right, those in ``prose`` hold sentences.
        rows: Cells; the first one of each row names it.
        marked: Positions of rows that stand out.
        notes: Small print below the name of each row; empty for none.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    prose: frozenset[str] = frozenset({"settings", "edit", "reason", "labels", "what"})
    marked: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True)
class Fact:
    """A named value; ``note`` is small print."""

    name: str
    value: str
    note: str = ""
