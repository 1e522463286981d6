"""The simple policies over the actions of the fusion search: a bandit for each factor, and even choice."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from chiasma.search.action_policy import ActionPolicy, Choice, Factors, Progress
from chiasma.search.fusion_action import Operation


class UniformActions(ActionPolicy):
    """Choose evenly among what is open, whatever was learnt: the control arm."""

    def _choose(self, progress: Progress, rng: np.random.Generator) -> Choice:
        places: dict[str, int] = {}
        operation: Operation | None = None
        for name in self.factors.choices:
            mask = self.factors.open(name, operation, progress.parents)
            if any(mask):
                places[name] = int(rng.choice(np.flatnonzero(mask)))
            operation = operation or self.factors.operations[places["operation"]]
        return Choice(places=places)

    def _learn(self, choice: Choice, reward: float) -> None:
        """Learn nothing."""

    def _learnt(self) -> Mapping[str, Any]:
        return {}

    def _load_learnt(self, learnt: Mapping[str, Any]) -> None:
        """There is nothing to load."""


class ActionBandit(ActionPolicy):
    """Thompson sampling, each factor on its own (Thompson 1933, https://doi.org/10.2307/2332286).

    Each choice has a normal belief about its mean reward, in standard deviations of all rewards so far, which begins at
    the mean of all with a variance of one. Unlike :class:`ActorCritic` it neither looks at how the search stands nor
    sees that factors depend on each other.

    Args:
        seed: The run's seed.
        factors: What may be chosen.
    """

    def __init__(self, *, seed: int, factors: Factors | None = None) -> None:
        super().__init__(seed=seed, factors=factors)
        self._told = 0
        self._sum = self._squares = 0.0
        self._tries = {name: [0] * len(choices) for name, choices in self.factors.choices.items()}
        self._sums = {name: [0.0] * len(choices) for name, choices in self.factors.choices.items()}

    def _choose(self, progress: Progress, rng: np.random.Generator) -> Choice:
        places: dict[str, int] = {}
        operation: Operation | None = None
        for name in self.factors.choices:
            mask = self.factors.open(name, operation, progress.parents)
            drawn = [self._belief(name, place) for place in range(len(mask))]
            values = [rng.normal(mean, deviation) for mean, deviation in drawn]
            if any(mask):
                places[name] = max(np.flatnonzero(mask).tolist(), key=lambda place: values[place])
            operation = operation or self.factors.operations[places["operation"]]
        return Choice(places=places)

    def _belief(self, name: str, place: int) -> tuple[float, float]:
        """Return mean and standard deviation of what is believed of a choice."""
        tries = self._tries[name][place]
        if not tries:
            return 0.0, 1.0
        mean = self._sum / self._told
        deviation = math.sqrt(max(self._squares / self._told - mean**2, 0.0)) or 1.0
        return (self._sums[name][place] - tries * mean) / deviation / (tries + 1), 1 / math.sqrt(tries + 1)

    def _learn(self, choice: Choice, reward: float) -> None:
        self._told += 1
        self._sum += reward
        self._squares += reward**2
        for name, place in choice.places.items():
            self._tries[name][place] += 1
            self._sums[name][place] += reward

    def _learnt(self) -> Mapping[str, Any]:
        sums = {name: list(values) for name, values in self._sums.items()}
        tries = {name: list(values) for name, values in self._tries.items()}
        return {"told": self._told, "sum": self._sum, "squares": self._squares, "tries": tries, "sums": sums}

    def _load_learnt(self, learnt: Mapping[str, Any]) -> None:
        self._told, self._sum, self._squares = int(learnt["told"]), float(learnt["sum"]), float(learnt["squares"])
        self._tries = {name: [int(each) for each in values] for name, values in learnt["tries"].items()}
        self._sums = {name: [float(each) for each in values] for name, values in learnt["sums"].items()}
