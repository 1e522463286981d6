"""The contracts of search: ask, tell, and a visible loop."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.train.design import Design

G = TypeVar("G")


@dataclass(frozen=True)
class Candidate(Generic[G]):
    """A design with the story of how it came to be.

    Attributes:
        proposer: Who made it.
        genome: The proposer's own form of it.
        design: What ``space.lower`` made of the genome.
        parents: Hashes of the designs it was made from.
        edit: What was changed, in words a user understands.
    """

    proposer: str
    genome: G
    design: Design
    parents: tuple[str, ...] = ()
    edit: str = ""

    @property
    def hash(self) -> str:
        """Return the canonical hash of the design; equal designs are never trained twice."""
        return self.design.content_hash()


@dataclass(frozen=True)
class Evaluation(Generic[G]):
    """A candidate and what one training of it came to.

    Attributes:
        rung: Index on the ladder; higher is longer training.
        seed: The seed of that training.
        seconds: What it cost.
    """

    candidate: Candidate[G]
    outcome: Scored | Rejected | Failed
    rung: int
    seed: int
    seconds: float


@dataclass(frozen=True)
class Standing:
    """Where one design stands: its mean over seeds on the highest rung that it reached.

    Attributes:
        candidate: The design, as first proposed.
        rung: Index of that rung.
        objectives: Means over the evaluations there of what all of them measured.
        evaluations: The evaluations that are averaged, in recorded order.
    """

    candidate: Candidate[Any]
    rung: int
    objectives: dict[str, float]
    evaluations: tuple[Evaluation[Any], ...]


class Archive(ABC):
    """All evaluated candidates of a run; what the proposers share."""

    @abstractmethod
    def add(self, evaluation: Evaluation[Any]) -> None:
        """Add one evaluation; the order of additions is the order of recorded rows."""

    @abstractmethod
    def front(self, objectives: Sequence[str]) -> list[Evaluation[Any]]:
        """Return the evaluations that no other dominates in the named objectives, all minimised, best first."""

    @abstractmethod
    def standings(self, *objectives: str) -> list[Standing]:
        """Return the standing of every scored design, lowest in the first objective first."""

    @abstractmethod
    def incumbent(
        self, rng: np.random.Generator, *, suits: Callable[[Design], bool] = lambda design: True
    ) -> Candidate[Any] | None:
        """Draw a good candidate to build on, or None while nothing is scored."""

    @abstractmethod
    def by_hash(self, hash: str) -> list[Evaluation[Any]]:
        """Return what is known of one design."""


class SearchSpace(Protocol[G]):
    """A typed space of genomes, and the only way from a genome to a design."""

    def sample(self, rng: np.random.Generator) -> G: ...
    def mutate(self, genome: G, rng: np.random.Generator) -> tuple[G, str]:
        """Return an edited genome and the edit in words."""
        ...

    def crossover(self, first: G, second: G, rng: np.random.Generator) -> G: ...
    def validate(self, genome: G) -> str | None:
        """Return why the genome cannot be built, or None."""
        ...

    def lower(self, genome: G, incumbent: Design) -> Design: ...


class Proposer(ABC, Generic[G]):
    """Proposes candidates. All randomness comes from the run's seed and the count of asks, so that state is small."""

    name: str

    @property
    def duplicates(self) -> int:
        """Return how many designs were not proposed because an equal one had been."""
        return 0

    @property
    def refused(self) -> Counter[str]:
        """Return how many edits made no sense and never became candidates, by reason."""
        return Counter()

    @abstractmethod
    def ask(self, count: int, archive: Archive) -> list[Candidate[G]]:
        """Return up to ``count`` candidates whose designs the archive has not seen."""

    @abstractmethod
    def tell(self, evaluations: Sequence[Evaluation[G]]) -> None:
        """Learn from outcomes, in candidate order."""

    @abstractmethod
    def state_dict(self) -> Mapping[str, Any]:
        """Return JSON from which :meth:`load_state_dict` continues exactly."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""


@dataclass(frozen=True)
class Spend:
    """One line of the ledger: what a proposer's candidate cost and gained.

    Attributes:
        seconds: Cost of all its trainings.
        gain: How much it improved the best score known when it was told; 0 where it did not.
    """

    proposer: str
    seconds: float
    gain: float


class Allocator(ABC):
    """Moves budget to whichever proposer pays; never below the controls' floor share."""

    @abstractmethod
    def next(self, ledger: Sequence[Spend]) -> str:
        """Return the name of the proposer that makes the next candidate; a pure function of the ledger."""
