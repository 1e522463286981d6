"""Train many a little, few for longer: successive halving, and how far the short trainings can be trusted."""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.core.spec import Spec

FEWEST_PAIRS = 4


class Rung(Spec):
    """One length of training.

    Attributes:
        fraction: Part of the design's own epochs.
    """

    fraction: float = Field(gt=0, le=1)


class Ladder(Spec):
    """Rungs from the shortest training to the full one.

    Successive halving of Jamieson and Talwalkar 2016 (https://arxiv.org/abs/1502.07943); unlike the paper, decided
    from whatever is recorded when asked, as ASHA does, so that nobody waits for a full bracket.

    A trunk that grows has all its reviews on every rung, so that its members come and go on short ones too. But there a
    newcomer learns for only a few steps before it is judged: a short rung tells how soon a design learns, and too
    little of what its growth is worth, which is known on the last rung.

    Attributes:
        rungs: Fractions rise; the last one is the full training.
        eta: Of the candidates scored on a rung, one in ``eta`` climbs to the next.
    """

    rungs: tuple[Rung, ...] = (Rung(fraction=0.1), Rung(fraction=0.3), Rung(fraction=1.0))
    eta: float = Field(default=3.0, gt=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        fractions = [rung.fraction for rung in self.rungs]
        if not fractions or fractions != sorted(set(fractions)) or fractions[-1] != 1.0:
            raise ValueError(f"rungs must rise strictly and end at fraction 1, but their fractions are {fractions}")
        return self

    @property
    def top(self) -> int:
        """Return the index of the full training."""
        return len(self.rungs) - 1


@dataclass(frozen=True)
class RungRow:
    """One recorded training, as promotion sees it.

    Attributes:
        candidate: The candidate's number in the run; smaller ones came first.
        rung: Index on the ladder.
        outcome: What it came to.
    """

    candidate: int
    rung: int
    outcome: Scored | Rejected | Failed


class RungCorrelation(Spec):
    """How well a rung predicts the order on the next one.

    Attributes:
        lower: Index of the cheaper rung.
        upper: Index of the next one.
        pairs: Candidates scored on both. They are the promoted ones, so that a low figure may be their narrow range.
        spearman: Rank correlation of their objectives, or None for fewer than four pairs or when one side is constant.
    """

    lower: int
    upper: int
    pairs: int
    spearman: float | None


Ranking = Callable[[Mapping[int, Mapping[str, float]]], list[int]]
"""From the mean objectives of each candidate to the candidates, best first."""


def by_error(scores: Mapping[int, Mapping[str, float]]) -> list[int]:
    """Return the candidates by their error, lowest first; ties go to the earlier candidate."""
    return sorted(scores, key=lambda candidate: (scores[candidate]["error"], candidate))


def promote(
    rows: Sequence[RungRow],
    *,
    rung: int,
    eta: float,
    ranking: Ranking = by_error,
    at_least: int = 1,
    started: Collection[int] = (),
) -> list[int]:
    """Return the candidates that should now be trained on rung + 1, best first.

    Of those scored on ``rung``, the best one in ``eta`` climb; seeds are averaged.
    What was rejected or failed, on this rung or the next, is never promoted, and nothing is promoted twice.

    Args:
        rows: Recorded trainings in any order: the answer depends on their content only.
        rung: Index of the rung to climb from.
        eta: How many scored candidates there are for each one that climbs; the number is rounded down.
        ranking: Decides who is better, from the mean objectives on this rung.
        at_least: How many climb however few are scored.
        started: Candidates whose training on the next rung is already under way.
    """
    ranked = ranking(rung_means(rows, rung=rung))
    climbing = ranked[: max(at_least, int(len(ranked) / eta))]
    taken = {row.candidate for row in rows if row.rung == rung + 1} | set(started)
    return [candidate for candidate in climbing if candidate not in taken]


def rung_means(rows: Sequence[RungRow], *, rung: int) -> dict[int, dict[str, float]]:
    """Return each candidate's mean objectives on one rung; a candidate with any rejection there is left out."""
    found: dict[int, list[Mapping[str, float]]] = {}
    spoilt: set[int] = set()
    for row in rows:
        if row.rung != rung:
            continue
        if isinstance(row.outcome, Scored):
            found.setdefault(row.candidate, []).append(row.outcome.objectives)
        else:
            spoilt.add(row.candidate)
    return {name: _means(measured) for name, measured in sorted(found.items()) if name not in spoilt}


def _means(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return means that do not depend on the order of arrival, not even in the last bit."""
    return {name: math.fsum(values[name] for values in measured) / len(measured) for name in measured[0]}


def rung_scores(rows: Sequence[RungRow], *, rung: int, objective: str = "error") -> dict[int, float]:
    """Return one mean objective of each candidate on one rung."""
    return {name: means[objective] for name, means in rung_means(rows, rung=rung).items()}


def rank_correlations(rows: Sequence[RungRow], *, objective: str = "error") -> list[RungCorrelation]:
    """Return the rank correlation between each two neighbouring rungs that appear in the rows."""
    rungs = sorted({row.rung for row in rows})
    found: list[RungCorrelation] = []
    for lower, upper in itertools.pairwise(rungs):
        below = rung_scores(rows, rung=lower, objective=objective)
        above = rung_scores(rows, rung=upper, objective=objective)
        both = sorted(below.keys() & above.keys())
        value = spearman([below[name] for name in both], [above[name] for name in both])
        found.append(RungCorrelation(lower=lower, upper=upper, pairs=len(both), spearman=value))
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation (ties share their mean rank), or None where it says nothing."""
    if len(first) < FEWEST_PAIRS:
        return None
    ranks = _mean_ranks(np.asarray(first, float)), _mean_ranks(np.asarray(second, float))
    if any(rank.std() == 0 for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]
