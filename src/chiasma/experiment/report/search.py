"""What did the search do: budget, rungs, rejections."""

from chiasma.experiment.report import wording
from chiasma.experiment.report.rows import Table
from chiasma.experiment.results import Results


def proposers(results: Results) -> Table:
    """Return what each proposer spent and found."""
    total = sum(float(item.get("seconds") or 0) for item in results.proposers) or 1.0
    rows = tuple(
        (
            str(item.get("proposer", "")),
            f"{item.get('candidates', 0):,}",
            f"{item.get('trainings', 0):,}",
            f"{item.get('rejected', 0):,}",
            f"{item.get('failed', 0):,}",
            wording.duration(float(item.get("seconds") or 0)),
            f"{100 * float(item.get('seconds') or 0) / total:.0f} %",
            wording.NONE if item.get("gain") is None else f"{item['gain']:.4f}",
            wording.score(results, item.get("best_error")),
        )
        for item in results.proposers
    )
    counts = ("candidates", "trainings", "rejected", "failed", "training time", "share")
    columns = ("proposer", *counts, "error lowered by", "best on select")
    return Table("Budget by proposer", columns, rows, frozenset(columns[1:]))


def rungs(results: Results) -> Table:
    """Return how well each rung predicted the next."""
    rows = tuple(
        (
            f"{row.get('lower')} → {row.get('upper')}",
            f"{row.get('pairs', 0):,}",
            wording.NONE if row.get("spearman") is None else wording.signed(f"{row['spearman']:.2f}"),
        )
        for row in results.rungs
    )
    columns = ("rungs", "candidates on both", "rank correlation")
    return Table("How well short trainings predicted longer ones", columns, rows, frozenset(columns[1:]))


def rejections(results: Results) -> Table:
    """Return why trainings ended without a score, the commonest first."""
    ordered = sorted(results.rejections.items(), key=lambda item: (-item[1], item[0]))
    split = [(*name.partition(":")[::2], count) for name, count in ordered]
    rows = tuple((stage.strip(), reason.strip(), f"{count:,}") for stage, reason, count in split)
    return Table("Trainings without a score", ("stage", "reason", "count"), rows, frozenset({"count"}))


def search_words(results: Results) -> str:
    """Return the search in a sentence or two."""
    budget = results.budget
    words = [f"{budget['candidates']:,} candidates" if budget.get("candidates") is not None else ""]
    words.append(f"{budget['trainings']:,} trainings" if budget.get("trainings") is not None else "")
    words.append(f"{budget['workers']} workers" if budget.get("workers") is not None else "")
    spent = f"It took {wording.duration(float(budget['spent_seconds']))}" if "spent_seconds" in budget else "It took"
    counted = ", ".join(word for word in words if word)
    saved = results.duplicates_saved
    duplicates = f" {saved:,} proposals equal to an earlier design were not trained again." if saved else ""
    return f"{spent} for {counted}.{duplicates}" if counted else f"{spent}.{duplicates}"
