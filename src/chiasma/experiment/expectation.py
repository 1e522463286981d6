"""What a model's predictions looked like on ``select``, so that new ones can be held against them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chiasma.core.spec import Spec
from chiasma.experiment.checks import CheckRules

KEPT = 201
MOST_OUTPUTS = 32
# One false alarm in a thousand checks.
ALARM = 0.001


class Expectation(Spec):
    """What the saved model remembers for the checks of its predictions.

    Attributes:
        rules: When predictions are good enough.
        examples: Size of ``select``.
        answers: How often each prediction was given there; empty for quantities.
        scores: Of each output, at most 201 evenly spaced order statistics of its scores there; of more than 32
            outputs only the greatest score of each example.
    """

    rules: CheckRules = CheckRules()
    examples: int = 0
    answers: Mapping[str, int] = {}
    scores: tuple[tuple[float, ...], ...] = ()

    def share(self, answer: str) -> float:
        """Return the part of ``select`` that got this answer."""
        return self.answers.get(answer, 0) / max(1, self.examples)

    def distance(self, scores: np.ndarray) -> float:
        """Return the greatest Kolmogorov-Smirnov distance of scores ``[n C]`` from those on ``select``."""
        return max(_distance(np.asarray(known), new) for known, new in zip(self.scores, _kept(scores), strict=True))

    def distance_by_chance(self, count: int) -> float:
        """Return what so many rows of the same kind exceed once in a thousand times, all outputs together.

        The bound of Smirnov 1939 for two samples, with Bonferroni's correction; the grid of what is kept adds to it.
        """
        critical = math.sqrt(-math.log(ALARM / len(self.scores) / 2) / 2 * (1 / count + 1 / self.examples))
        coarse = 1 / (2 * KEPT) if self.examples > KEPT else 0.0
        return min(1.0, critical + coarse)


def expect(decisions: Sequence[Any], scores: np.ndarray, *, rules: CheckRules, quantities: bool) -> Expectation:
    """Return what to expect of predictions, from those on ``select``.

    Args:
        decisions: What was predicted of each example.
        scores: Calibrated probabilities or values ``[n C]``.
        rules: When predictions are good enough.
        quantities: The task is a regression, whose predictions are all different.
    """
    answers = {} if quantities else dict(sorted(Counter(map(answer_key, decisions)).items()))
    columns = tuple(_spaced(column) for column in _kept(scores))
    return Expectation(rules=rules, examples=len(scores), answers=answers, scores=columns)


def answer_key(decision: Any) -> str:
    """Return a prediction as one word; a set of labels is joined by ``|``."""
    return "|".join(map(str, decision)) if isinstance(decision, tuple) else str(decision)


def _kept(scores: np.ndarray) -> list[np.ndarray]:
    found = np.asarray(scores, dtype=np.float64)
    if found.shape[1] > MOST_OUTPUTS:
        found = found.max(1, keepdims=True)
    return list(found.T)


def _spaced(values: np.ndarray) -> tuple[float, ...]:
    ordered = np.sort(values)
    if len(ordered) > KEPT:
        ordered = ordered[np.linspace(0, len(ordered) - 1, KEPT).round().astype(int)]
    # As precise as the float32 outputs that they come from, and half as long in JSON.
    return tuple(float(f"{value:.9g}") for value in ordered)


def _distance(known: np.ndarray, new: np.ndarray) -> float:
    places = np.concatenate([known, new])
    below = [np.searchsorted(np.sort(each), places, side="right") / len(each) for each in (known, new)]
    return float(np.abs(below[0] - below[1]).max())
