"""All evaluated candidates of a run; what the proposers share, so that one's gain is the next one's ground."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chiasma.core.outcome import Rejected, Scored
from chiasma.search.pareto import non_dominated
from chiasma.search.protocols import Archive, Candidate, Evaluation, Standing
from chiasma.train.design import Design

RANK_TEMPERATURE = 3.0
FRONT_SHARE = 0.25


class SharedArchive(Archive):
    """Keeps evaluations in recorded order and ranks designs by their mean on the highest rung that they reached.

    A design that was rejected anywhere, for example because its longer training diverged, has no standing. A failure
    of ours is not held against it.
    """

    def __init__(self, objectives: Sequence[str] = ("error",)) -> None:
        self.objectives = tuple(objectives)
        self._by_hash: dict[str, list[Evaluation[Any]]] = {}

    def __len__(self) -> int:
        """Return how many designs are known, whatever came of them."""
        return len(self._by_hash)

    def add(self, evaluation: Evaluation[Any]) -> None:
        """Add one evaluation; the order of additions is the order of recorded rows."""
        self._by_hash.setdefault(evaluation.candidate.hash, []).append(evaluation)

    def by_hash(self, hash: str) -> list[Evaluation[Any]]:
        """Return what is known of one design, in recorded order; nothing for an unknown one."""
        return list(self._by_hash.get(hash, ()))

    def standings(self, *objectives: str) -> list[Standing]:
        """Return the standing of every scored design, lowest in the first objective first; ties go to the earlier one.

        Args:
            objectives: What the standings hold; the error where none is named.

        Raises:
            ValueError: A design was scored without one of them.
        """
        named = objectives or ("error",)
        found = [_standing(evaluations, named) for evaluations in self._by_hash.values()]
        return sorted((each for each in found if each is not None), key=lambda each: each.objectives[named[0]])

    def front(self, objectives: Sequence[str]) -> list[Evaluation[Any]]:
        """Return the designs that no other dominates in the named objectives, all minimised, best first.

        Means over seeds are compared, each design on its highest rung, and ordered by the objectives as they are
        named; of a design's evaluations there, the first is returned.

        Raises:
            ValueError: No objective is named, or a design was scored without one of them.
        """
        if not objectives:
            raise ValueError("front needs at least one objective, but got none.")
        standings = self.standings(*objectives)
        if not standings:
            return []
        points = np.array([[standing.objectives[name] for name in objectives] for standing in standings])
        order: list[int] = np.lexsort(points.T[::-1]).tolist()
        kept = non_dominated(points)
        return [standings[index].evaluations[0] for index in order if kept[index]]

    def incumbent(
        self, rng: np.random.Generator, *, suits: Callable[[Design], bool] = lambda design: True
    ) -> Candidate[Any] | None:
        """Draw a design that suits by a softmax over ranks in error, or None while none is scored.

        With several objectives, one draw in four is from their front instead, so that lean designs are built on too.

        The best design is drawn most often, one three ranks lower a third as often, and none never.
        """
        standings = [standing for standing in self.standings() if suits(standing.candidate.design)]
        if not standings:
            return None
        if len(self.objectives) > 1 and rng.random() < FRONT_SHARE:
            front = [each for each in self.front(self.objectives) if suits(each.candidate.design)]
            if front:
                return front[int(rng.integers(len(front)))].candidate
        weights = np.exp(-np.arange(len(standings)) / RANK_TEMPERATURE)
        return standings[int(rng.choice(len(standings), p=weights / weights.sum()))].candidate


def _standing(evaluations: Sequence[Evaluation[Any]], objectives: Sequence[str]) -> Standing | None:
    """Return one design's standing, or None where it was rejected or never scored."""
    if any(isinstance(evaluation.outcome, Rejected) for evaluation in evaluations):
        return None
    scored = [(evaluation, e) for evaluation in evaluations if isinstance(e := evaluation.outcome, Scored)]
    if not scored:
        return None
    rung = max(evaluation.rung for evaluation, _ in scored)
    top = [(evaluation, outcome) for evaluation, outcome in scored if evaluation.rung == rung]
    measured = [outcome.objectives for _, outcome in top]
    missing = [name for name in objectives if any(name not in values for values in measured)]
    if missing:
        raise ValueError(
            f"Design {top[0][0].candidate.hash} was scored without {', '.join(missing)}; "
            f"it has {', '.join(measured[0])}."
        )
    means = {name: math.fsum(values[name] for values in measured) / len(measured) for name in objectives}
    return Standing(top[0][0].candidate, rung, means, tuple(evaluation for evaluation, _ in top))
