"""The figures of an evaluation under the names that document 003 and scikit-learn know them by."""

from chiasma.experiment.evaluate_run import Evaluation

_COUNTS = ("TN", "FP", "FN", "TP")


def published_figures(evaluation: Evaluation) -> dict[str, float]:
    """Return AUROC, accuracy, precision, recall, F1, and for two classes ``TN FP FN TP``; other metrics as they are.

    Precision, recall and F1 are those of the second class where there are two, else the mean over labels; what is not
    defined is left out.
    """
    figures = {name: interval.value for name, interval in evaluation.metrics.items()}
    rows = evaluation.per_label
    judged = rows[1:] if len(rows) == 2 else rows
    for name in ("precision", "recall", "f1"):
        known = [row[name] for row in judged if row.get(name) is not None]
        if known:
            figures[name] = sum(known) / len(known)
    if len(rows) == 2 and all(row.get("recall") is not None for row in rows):
        right = [round(row["recall"] * row["count"]) for row in rows]
        wrong = [row["count"] - hits for row, hits in zip(rows, right, strict=True)]
        figures |= dict(zip(_COUNTS, map(float, (right[0], wrong[0], wrong[1], right[1])), strict=True))
    return figures
