"""What was found while reading and cleaning: counts, notes, and every row that was set aside with its reason."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

BY_DESIGN = frozenset(
    {
        "exact duplicate",
        "exact duplicate across splits",
        "conflicting labels",
        "image also in another split",
        "group also in another split",
    }
)
"""Reasons that say something about the table as a whole, so that they do not count as bad rows."""


@dataclass
class Findings:
    """Collects what the report says.

    Attributes:
        rows_read: Rows in the source, good and bad.
        counts: How often something happened that did not cost a row.
        notes: Plain sentences a reader must know.
        quarantined: One entry a row that was set aside: ``id line split reason detail``.
    """

    rows_read: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)

    def quarantine(
        self,
        frame: pd.DataFrame,
        bad: Any,
        *,
        reason: str,
        details: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Set rows aside for one reason and return the others, in their order.

        Args:
            frame: The table.
            bad: Which rows to set aside, one boolean a row.
            reason: A few words; counted.
            details: What a person needs to find the fault, one a row of ``frame``, or nothing.
        """
        marks = np.where(np.asarray(bad, dtype=bool), reason, "")
        return self.quarantine_each(frame, marks, details=details)

    def quarantine_each(
        self, frame: pd.DataFrame, reasons: Sequence[str] | np.ndarray, *, details: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Set aside the rows that have a reason, and return those whose reason is empty, in their order."""
        marks = np.asarray(reasons, dtype=object)
        bad = np.flatnonzero(marks != "")
        if not len(bad):
            return frame
        for row, (identity, line, split) in zip(
            bad, frame[["id", "line", "split"]].iloc[bad].itertuples(index=False), strict=True
        ):
            detail = details[int(row)] if len(details) else ""
            self.set_aside(line, reason=marks[row], detail=detail, identity=identity, split=split)
        return frame.loc[marks == ""].reset_index(drop=True)

    def set_aside(self, line: int, *, reason: str, detail: str = "", identity: Any = None, split: Any = None) -> None:
        """Record one row that cannot be used."""
        entry = {"id": identity, "line": int(line), "split": split, "reason": reason, "detail": detail}
        self.quarantined.append(entry)

    def reasons(self) -> Counter[str]:
        """Return how many rows were set aside for each reason."""
        return Counter(entry["reason"] for entry in self.quarantined)

    def bad_rows(self) -> Counter[str]:
        """Return the rows that could not be used, by reason; duplicates and leaks are not among them."""
        return Counter({reason: count for reason, count in self.reasons().items() if reason not in BY_DESIGN})

    def quarantine_lines(self) -> str:
        """Return the quarantine file: one JSON object a line, in the order of the source."""
        ordered = sorted(self.quarantined, key=lambda entry: entry["line"])
        return "".join(json.dumps(entry, ensure_ascii=True) + "\n" for entry in ordered)
