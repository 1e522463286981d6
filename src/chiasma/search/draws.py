"""Draw candidates until they are new; the whole state is three small numbers and what waits for an answer."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from chiasma.core.rng import numpy_rng
from chiasma.search.protocols import Archive, Candidate
from chiasma.train.design import Design

G = TypeVar("G")

REDRAWS = 20


class Draws:
    """Numbered draws, each with randomness of its own, without repeating a known design.

    Args:
        seed: The run's seed.
        name: The proposer's name; its draws depend on the seed, the name and the count of draws alone.
        behaviour: Returns a hash of what a design does; one that does what an earlier draw did is known too. None
            compares designs alone.
        known: What is done already, before anything is drawn.
        seen: What was drawn, where several share it; None for a list of its own.
        excess: Returns by how much a design is known to exceed what it may cost; such a one is drawn again, and after
            many draws the one that exceeds it least is taken.

    Attributes:
        duplicates: How many draws gave a known design and were drawn again.
        beyond: How many exceeded what they may cost and were drawn again.
    """

    def __init__(
        self,
        seed: int,
        name: str,
        *,
        behaviour: Callable[[Design], str] | None = None,
        known: Iterable[str] = (),
        seen: list[str] | None = None,
        excess: Callable[[Design], float] = lambda design: 0.0,
    ) -> None:
        self.seed = seed
        self.name = name
        self.duplicates = self.beyond = 0
        self._excess = excess
        self._behaviour = behaviour
        self._count = 0
        self._waiting: list[str] = []
        self.seen = [] if seen is None else seen
        self.seen += [each for each in known if each not in self.seen]

    def fresh(
        self, count: int, archive: Archive, make: Callable[[np.random.Generator], Candidate[G] | None]
    ) -> list[Candidate[G]]:
        """Return up to ``count`` designs that neither the archive nor an earlier, unanswered call holds.

        Where behaviour is compared, none of them does what any earlier draw did.

        Fewer come back only when 20 draws in a row gave known designs, or when there is nothing to make them of.
        """
        made = (self._one(archive, make) for _ in range(count))
        return [candidate for candidate in made if candidate is not None]

    def answer(self, hashes: Iterable[str]) -> None:
        """Forget that these designs were waiting: from now on the archive holds them."""
        told = set(hashes)
        self._waiting = [hash for hash in self._waiting if hash not in told]

    def state_dict(self) -> Mapping[str, Any]:
        """Return JSON from which :meth:`load_state_dict` continues exactly."""
        state = {"count": self._count, "duplicates": self.duplicates, "beyond": self.beyond}
        state |= {"waiting": list(self._waiting)}
        return state if self._behaviour is None else {**state, "seen": list(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._count, self.duplicates = int(state["count"]), int(state["duplicates"])
        self.beyond = int(state.get("beyond", 0))
        self._waiting = [str(hash) for hash in state["waiting"]]
        self.seen[:] = [str(hash) for hash in state.get("seen", ())]

    def _one(self, archive: Archive, make: Callable[[np.random.Generator], Candidate[G] | None]) -> Candidate[G] | None:
        found: list[tuple[float, Candidate[G]]] = []
        for _ in range(REDRAWS):
            candidate = make(numpy_rng(self.seed, "propose", self.name, self._count))
            self._count += 1
            if candidate is None:
                break
            if not self._is_new(candidate, archive):
                self.duplicates += 1
                continue
            found.append((self._excess(candidate.design), candidate))
            if found[-1][0] <= 0:
                break
            self.beyond += 1
        if not found:
            return None
        chosen = min(found, key=lambda each: each[0])[1]
        self._waiting.append(chosen.hash)
        return chosen

    def _is_new(self, candidate: Candidate[Any], archive: Archive) -> bool:
        """Return whether a candidate is known neither by its form nor by what it does."""
        if archive.by_hash(candidate.hash) or candidate.hash in self._waiting:
            return False
        if self._behaviour is None:
            return True
        behaviour = self._behaviour(candidate.design)
        known = behaviour in self.seen
        if not known:
            self.seen.append(behaviour)
        return not known
