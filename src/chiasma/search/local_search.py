"""Edit one part of a good design: what one proposer found is the ground on which this one builds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chiasma.search.draws import Draws
from chiasma.search.protocols import Archive, Candidate, Evaluation, Proposer, SearchSpace
from chiasma.train.design import Design


class LocalSearch(Proposer[Design]):
    """Draw an incumbent from the shared archive and edit one part of it; now and then cross two of them.

    While nothing is scored there is nothing to edit, and it samples the space.

    Args:
        space: Knows the edits.
        seed: The run's seed.
        name: The proposer's name in the archive and the report.
        crossover: How often two incumbents are crossed instead of one being edited.

    Raises:
        ValueError: ``crossover`` is not a probability.
    """

    def __init__(self, space: SearchSpace[Design], *, seed: int, name: str = "local", crossover: float = 0.15) -> None:
        if not 0 <= crossover <= 1:
            raise ValueError(f"crossover must be within 0..1, but got {crossover}.")
        self.space = space
        self.name = name
        self.crossover = crossover
        self._draws = Draws(seed, name)

    @property
    def duplicates(self) -> int:
        """Return how many draws gave a known design and were drawn again."""
        return self._draws.duplicates

    def ask(self, count: int, archive: Archive) -> list[Candidate[Design]]:
        """Return up to ``count`` edits of incumbents that are not known and not waiting for an answer."""
        return self._draws.fresh(count, archive, lambda rng: self._propose(rng, archive))

    def tell(self, evaluations: Sequence[Evaluation[Design]]) -> None:
        """Forget that these were waiting; what was learnt is in the shared archive."""
        self._draws.answer(evaluation.candidate.hash for evaluation in evaluations)

    def state_dict(self) -> Mapping[str, Any]:
        """Return the count of draws and what waits for an answer."""
        return self._draws.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._draws.load_state_dict(state)

    def _propose(self, rng: np.random.Generator, archive: Archive) -> Candidate[Design]:
        first = archive.incumbent(rng)
        if first is None:
            genome = self.space.sample(rng)
            return self._candidate(genome, genome, (), "a random design: nothing is scored yet")
        crossing = rng.random() < self.crossover
        second = archive.incumbent(rng) if crossing else None
        if second is not None and second.hash != first.hash:
            genome = self.space.crossover(first.design, second.design, rng)
            return self._candidate(genome, first.design, (first.hash, second.hash), "a cross of two good designs")
        genome, edit = self.space.mutate(first.design, rng)
        return self._candidate(genome, first.design, (first.hash,), edit)

    def _candidate(self, genome: Design, incumbent: Design, parents: tuple[str, ...], edit: str) -> Candidate[Design]:
        return Candidate(self.name, genome, self.space.lower(genome, incumbent), parents, edit)
