"""Draw candidates until they are new; the whole state is three small numbers and what waits for an answer."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from chiasma.core.rng import numpy_rng
from chiasma.search.protocols import Archive, Candidate
from chiasma.train.design import Design

REDRAWS = 20


class Draws:
    """Numbered draws, each with randomness of its own, without repeating a known design.

    Args:
        seed: The run's seed.
        name: The proposer's name; its draws depend on the seed, the name and the count of draws alone.

    Attributes:
        duplicates: How many draws gave a known design and were drawn again.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.seed = seed
        self.name = name
        self.duplicates = 0
        self._count = 0
        self._waiting: list[str] = []

    def fresh(
        self, count: int, archive: Archive, make: Callable[[np.random.Generator], Candidate[Design]]
    ) -> list[Candidate[Design]]:
        """Return up to ``count`` designs that neither the archive nor an earlier, unanswered call holds.

        Fewer come back only when 20 draws in a row gave known designs.
        """
        made = (self._one(archive, make) for _ in range(count))
        return [candidate for candidate in made if candidate is not None]

    def answer(self, hashes: Iterable[str]) -> None:
        """Forget that these designs were waiting: from now on the archive holds them."""
        told = set(hashes)
        self._waiting = [hash for hash in self._waiting if hash not in told]

    def state_dict(self) -> Mapping[str, Any]:
        """Return JSON from which :meth:`load_state_dict` continues exactly."""
        return {"count": self._count, "duplicates": self.duplicates, "waiting": list(self._waiting)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._count, self.duplicates = int(state["count"]), int(state["duplicates"])
        self._waiting = [str(hash) for hash in state["waiting"]]

    def _one(
        self, archive: Archive, make: Callable[[np.random.Generator], Candidate[Design]]
    ) -> Candidate[Design] | None:
        for _ in range(REDRAWS):
            candidate = make(numpy_rng(self.seed, "propose", self.name, self._count))
            self._count += 1
            if not archive.by_hash(candidate.hash) and candidate.hash not in self._waiting:
                self._waiting.append(candidate.hash)
                return candidate
            self.duplicates += 1
        return None
