"""What preparing the data found, as a value: printed by ``data check`` and told in every report."""

from collections.abc import Mapping

from chiasma.core.spec import Spec
from chiasma.data.splits import SPLITS


class SplitCount(Spec):
    """One split after cleaning.

    Attributes:
        labels: Rows by class; for several labels a row, rows that have each; empty for quantities.
    """

    rows: int
    groups: int
    labels: Mapping[str, int] = {}


class DataReport(Spec):
    """Everything a reader must know about the data before believing a figure.

    Attributes:
        source: What was read.
        task: Which task, and why.
        rows_read: Rows in the source, good and bad.
        rows_kept: Rows in the four splits.
        splits: By split.
        quarantined: Rows that were set aside, by reason.
        quarantine_file: One JSON object for each of them; None where there is none.
        counts: What was noticed and did not cost a row.
        inputs: What a model gets, by modality, in words.
        slices: How many rows have which value of the columns by which results are shown apart.
        near_duplicate_images: Pairs of images that look the same, and how many of the pairs lie across two splits.
        notes: Plain sentences.
        seconds: How long it took when it was prepared.
        folder: Where the prepared data lies.
    """

    source: str
    task: str
    rows_read: int
    rows_kept: int
    splits: Mapping[str, SplitCount]
    quarantined: Mapping[str, int] = {}
    quarantine_file: str | None = None
    counts: Mapping[str, int] = {}
    inputs: Mapping[str, str] = {}
    slices: Mapping[str, Mapping[str, int]] = {}
    near_duplicate_images: int = 0
    near_duplicate_images_across_splits: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    folder: str = ""

    def lines(self) -> list[str]:
        """Return the report as text, one fact a line."""
        lines = [f"{self.source}: {self.rows_read:,} rows read, {self.rows_kept:,} kept", f"task: {self.task}"]
        lines += [f"{name}: {text}" for name, text in self.inputs.items()]
        lines += [self._split_line(name) for name in SPLITS if name in self.splits]
        for name, values in self.slices.items():
            lines.append(f"by {name}: {', '.join(f'{value} {count:,}' for value, count in values.items())}")
        lines += [f"set aside, {reason}: {count:,}" for reason, count in self.quarantined.items()]
        if self.quarantine_file:
            lines.append(f"set aside rows: {self.quarantine_file}")
        lines += [f"{name}: {count:,}" for name, count in self.counts.items()]
        if self.near_duplicate_images:
            across = f", {self.near_duplicate_images_across_splits:,} of them across splits"
            lines.append(f"pairs of near-duplicate images: {self.near_duplicate_images:,}{across}")
        return [*lines, *self.notes]

    def _split_line(self, name: str) -> str:
        split = self.splits[name]
        most = sorted(split.labels.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{label} {count:,}" for label, count in most[:6])
        more = f", and {len(most) - 6} more labels" if len(most) > 6 else ""
        return f"{name}: {split.rows:,} rows in {split.groups:,} groups" + (f" ({shown}{more})" if shown else "")
