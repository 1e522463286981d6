"""What every policy over the actions of the fusion search has in common: factors, masks, ask and tell."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasma.core.rng import numpy_rng
from chiasma.core.spec import Spec
from chiasma.search.fusion_action import (
    DEPTHS,
    FAMILIES,
    GATINGS,
    INTENSITIES,
    OPERATIONS,
    WIDTHS,
    Depth,
    Family,
    FusionAction,
    Gating,
    Intensity,
    Operation,
    Width,
)

RECENT = 8

# What an operation reads of an action; a factor that it does not read is not drawn, and learns nothing.
READS: Mapping[Operation, tuple[str, ...]] = {
    "fresh": ("family", "depth", "width", "gating"),
    "mutate": ("intensity", "parent"),
    "crossover": ("family", "parent"),
}


@dataclass(frozen=True)
class Progress:
    """How a search stands, as measured.

    Attributes:
        best: Highest reward so far; 0 while there is none.
        recent: The last rewards, the newest last.
        valid: Part of the candidates so far that could be trained; 1 while there is none.
        left: Part of the budget that is left.
        parents: Designs that can be edited.
        families: Candidates so far by family.
    """

    best: float = 0.0
    recent: tuple[float, ...] = ()
    valid: float = 1.0
    left: float = 1.0
    parents: int = 0
    families: Mapping[str, int] | None = None

    def signals(self, families: Sequence[str], parents: int) -> list[float]:
        """Return what a network looks at, each about -1 to 1.

        Args:
            families: Their order.
            parents: Most parents on offer.
        """
        recent = self.recent[-RECENT:]
        mean = sum(recent) / len(recent) if recent else 0.0
        last = recent[-1] if recent else 0.0
        counts = self.families or {}
        total = max(1, sum(counts.values()))
        offered = min(self.parents, parents) / max(1, parents)
        shares = [counts.get(family, 0) / total for family in families]
        return [self.best, mean, last - mean, self.best - mean, self.valid, self.left, offered, *shares]


@dataclass(frozen=True)
class Factors:
    """What may be chosen, factor by factor; a search can be held to a part of each.

    Attributes:
        parents: Most parents on offer, the best first; with 0 nothing is edited.

    Raises:
        ValueError: A factor has no choice.
    """

    operations: tuple[Operation, ...] = OPERATIONS
    families: tuple[Family, ...] = FAMILIES
    depths: tuple[Depth, ...] = DEPTHS
    widths: tuple[Width, ...] = WIDTHS
    gatings: tuple[Gating, ...] = GATINGS
    intensities: tuple[Intensity, ...] = INTENSITIES
    parents: int = 4

    def __post_init__(self) -> None:
        empty = [name for name, choices in self.choices.items() if not choices and name != "parent"]
        if empty:
            raise ValueError(f"every factor needs at least one choice, but {', '.join(empty)} has none.")
        if "fresh" not in self.operations:
            raise ValueError(f"operations must hold fresh, with which a search begins, but got {self.operations}.")

    @property
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Return the choices of each factor; the operation first, since the others depend on it."""
        return {
            "operation": self.operations,
            "family": self.families,
            "depth": self.depths,
            "width": self.widths,
            "gating": self.gatings,
            "intensity": self.intensities,
            "parent": tuple(range(self.parents)),
        }

    def open(self, name: str, operation: Operation | None, parents: int) -> list[bool]:
        """Return which choices of a factor are open.

        Args:
            name: The factor.
            operation: What was chosen first; None where the operation itself is chosen.
            parents: Designs that can be edited.

        Returns:
            All of them false where the operation does not read this factor.
        """
        parents = min(parents, self.parents)
        choices = self.choices[name]
        if operation is None:
            needs: Mapping[Operation, int] = {"fresh": 0, "mutate": 1, "crossover": 2}
            return [parents >= needs[choice] for choice in choices]
        if name not in READS[operation]:
            return [False] * len(choices)
        return [choice < parents for choice in choices] if name == "parent" else [True] * len(choices)

    def action(self, chosen: Mapping[str, int]) -> FusionAction:
        """Return the action of the chosen places; what was not chosen keeps its default."""
        choices = self.choices
        return FusionAction.from_dict({name: choices[name][place] for name, place in chosen.items()})


class Choice(Spec):
    """What was chosen, and on what ground.

    Attributes:
        places: Place of the choice in each factor that was drawn.
        masks: Which choices were open, for each of these.
        signals: What the policy looked at.
        chances: Probability with which each place was drawn.
    """

    places: Mapping[str, int]
    masks: Mapping[str, tuple[bool, ...]] = {}
    signals: tuple[float, ...] = ()
    chances: Mapping[str, float] = {}


class ActionPolicy(ABC):
    """Chooses what the next fusion should be, and learns from the rewards of those that were tried.

    Rewards may come late and in batches of any size. A policy learns from them in the order in which they are told, and
    within a batch in the order in which they were asked for, so that the batches do not matter.

    Args:
        seed: The run's seed; with the count of asks it is the only source of randomness.
        factors: What may be chosen.
    """

    def __init__(self, *, seed: int, factors: Factors | None = None) -> None:
        self.seed = seed
        self.factors = factors or Factors()
        self.asks = 0
        self._waiting: dict[int, Choice] = {}

    def ask(self, progress: Progress) -> tuple[int, FusionAction]:
        """Return the number of this ask, by which its reward is told, and the action."""
        number = self.asks
        self.asks += 1
        choice = self._choose(progress, numpy_rng(self.seed, "controller", number))
        self._waiting[number] = choice
        return number, self.factors.action(choice.places)

    def tell(self, rewards: Iterable[tuple[int, float | None]]) -> None:
        """Learn from rewards by number of the ask; None, where we failed and not the candidate, teaches nothing.

        Raises:
            ValueError: A number was never asked for, or was told before.
        """
        for number, reward in sorted(rewards, key=lambda each: each[0]):
            if number not in self._waiting:
                raise ValueError(f"ask {number} is not waiting for a reward: waiting are {sorted(self._waiting)}.")
            choice = self._waiting.pop(number)
            if reward is not None:
                self._learn(choice, reward)

    def state_dict(self) -> Mapping[str, Any]:
        """Return JSON from which :meth:`load_state_dict` continues exactly."""
        waiting = {str(number): choice.to_dict() for number, choice in self._waiting.items()}
        return {"asks": self.asks, "waiting": waiting, "learnt": self._learnt()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.asks = int(state["asks"])
        self._waiting = {int(number): Choice.from_dict(choice) for number, choice in state["waiting"].items()}
        self._load_learnt(state["learnt"])

    @abstractmethod
    def _choose(self, progress: Progress, rng: np.random.Generator) -> Choice:
        """Return what is tried next."""

    @abstractmethod
    def _learn(self, choice: Choice, reward: float) -> None:
        """Learn from one reward."""

    @abstractmethod
    def _learnt(self) -> Mapping[str, Any]:
        """Return what was learnt, as JSON."""

    @abstractmethod
    def _load_learnt(self, learnt: Mapping[str, Any]) -> None:
        """Continue from :meth:`_learnt`."""
