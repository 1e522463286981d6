"""What is asked of predictions before anybody uses them: the settings, and one answer a check."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from chiasma.core.spec import Spec

CheckName = Literal[
    "no_null_predictions",
    "valid_predictions",
    "no_null_probabilities",
    "valid_probability_range",
    "prediction_count",
    "class_distribution",
    "better_than_random",
    "calibration_error",
    "threshold_is_used",
    "duplicate_predictions",
    "drift_from_select",
]

Part = Annotated[float, Field(ge=0, le=1)]


class Check(Spec):
    """What one check found.

    Attributes:
        name: Which check.
        passed: None where nothing can be said: too few rows, no labels, nothing to compare with.
        value: What was measured; None where nothing was.
        threshold: What it was held against.
        required: Whether predictions that fail it are refused.
        words: What was found, for a reader.
    """

    name: str
    passed: bool | None
    value: float | None
    threshold: float | None
    required: bool
    words: str


class CheckRules(Spec):
    """When predictions are good enough to be used.

    A saved model remembers them and ``predict`` holds new predictions against them.

    Attributes:
        required: Checks without which ``predict`` fails; the others only warn.
        predicted: Least part of the rows that must get a prediction.
        largest_class: Most of the rows that may get the same answer; more where ``select`` had more.
        calibration_error: Greatest expected calibration error; more where so few rows cannot show less.
        duplicates: Most of the different inputs that may share their exact output with another one.
        drift: Greatest Kolmogorov-Smirnov distance of the predicted probabilities from those on ``select``; more where
            so few rows differ as much by chance.
    """

    required: tuple[CheckName, ...] = (
        "no_null_predictions",
        "valid_predictions",
        "no_null_probabilities",
        "valid_probability_range",
        "prediction_count",
        "threshold_is_used",
    )
    predicted: Part = 0.5
    largest_class: Part = 0.95
    calibration_error: Part = 0.1
    duplicates: Part = 0.1
    drift: Part = 0.15


def failures(checks: Sequence[Check], *, required: bool = True) -> list[Check]:
    """Return the checks that failed: the required ones, or the others."""
    return [check for check in checks if check.passed is False and check.required == required]


def summary_lines(checks: Sequence[Check]) -> list[str]:
    """Return how many checks passed, then a line for each that did not."""
    if not checks:
        return []
    passed = sum(check.passed is True for check in checks)
    untold = [check.name for check in checks if check.passed is None]
    rest = f"; nothing to say on {', '.join(untold)}" if untold else ""
    lines = [f"{passed} of {len(checks)} checks of the predictions passed{rest}"]
    for required, verdict in ((True, "failed"), (False, "warning")):
        lines += [f"{verdict}: {check.name}: {check.words}" for check in failures(checks, required=required)]
    return lines
