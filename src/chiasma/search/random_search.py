"""Random designs: the control that every other proposer must beat at equal cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chiasma.search.draws import Draws
from chiasma.search.protocols import Archive, Candidate, Evaluation, Proposer, SearchSpace
from chiasma.train.design import Design


class RandomSearch(Proposer[Any]):
    """Sample the space, independently of everything that was learnt.

    Args:
        space: What to sample from.
        seed: The run's seed.
        name: The proposer's name in the archive and the report.
        base: The design that is completed by what is sampled; None where whole designs are sampled.
        behaviour: Returns a hash of what a design does; what does the same as an earlier one is not proposed. None
            compares designs alone.
        seen: What was drawn, where several share it.
        excess: Returns by how much a design is known to exceed what it may cost; such a one is drawn again.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        *,
        seed: int,
        name: str = "random",
        base: Design | None = None,
        behaviour: Callable[[Design], str] | None = None,
        seen: list[str] | None = None,
        excess: Callable[[Design], float] = lambda design: 0.0,
    ) -> None:
        self.space = space
        self.name = name
        self.base = base
        known = () if base is None or behaviour is None else (behaviour(base),)
        self._draws = Draws(seed, name, behaviour=behaviour, known=known, seen=seen, excess=excess)

    @property
    def duplicates(self) -> int:
        """Return how many draws gave a known design and were drawn again."""
        return self._draws.duplicates

    def ask(self, count: int, archive: Archive) -> list[Candidate[Any]]:
        """Return up to ``count`` random designs that are not known and not waiting for an answer."""
        return self._draws.fresh(count, archive, self._sample)

    def tell(self, evaluations: Sequence[Evaluation[Any]]) -> None:
        """Forget that these were waiting; nothing else is learnt."""
        self._draws.answer(evaluation.candidate.hash for evaluation in evaluations)

    def state_dict(self) -> Mapping[str, Any]:
        """Return the count of draws and what waits for an answer."""
        return self._draws.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._draws.load_state_dict(state)

    def _sample(self, rng: np.random.Generator) -> Candidate[Any]:
        genome = self.space.sample(rng)
        design = self.space.lower(genome, self.base or genome)
        return Candidate(self.name, genome, design, edit="a random mechanism" if self.base else "a random design")
