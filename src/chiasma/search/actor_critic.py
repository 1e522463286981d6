"""An actor-critic that learns what kind of fusion to try next."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from chiasma.core.rng import kept_torch_generator, numpy_rng
from chiasma.core.spec import Spec
from chiasma.search.action_policy import ActionPolicy, Choice, Factors, Progress
from chiasma.search.fusion_action import Operation

CLOSED = -1e9
LEAST_DEVIATION = 1e-6


class ActorCriticRules(Spec):
    """The settings of the actor-critic; ``benchmarks/fusion_controller.py`` chose the defaults.

    Attributes:
        hidden: Width of the network's one hidden layer.
        lr: Learning rate of its Adam.
        lesson: Rewards between two lessons.
        memory: Most rewards, the newest, that a lesson looks at.
        passes: Steps in a lesson.
        clip: How far the odds of an old action may move before it teaches nothing more.
        entropy: Weight of how freely it tries.
        value: Weight of the critic's error.
        norm: Longest gradient.
    """

    hidden: int = Field(default=32, ge=1)
    lr: float = Field(default=0.02, gt=0)
    lesson: int = Field(default=4, ge=1)
    memory: int = Field(default=48, ge=2)
    passes: int = Field(default=4, ge=1)
    clip: float = Field(default=0.3, gt=0, lt=1)
    entropy: float = Field(default=0.02, ge=0)
    value: float = Field(default=0.5, ge=0)
    norm: float = Field(default=1.0, gt=0)


class _Network(nn.Module):
    """One hidden layer, a layer of logits for each factor, and the critic; the last layers begin at zero."""

    def __init__(self, inputs: int, hidden: int, choices: Mapping[str, int], *, seed: int) -> None:
        super().__init__()
        with kept_torch_generator():
            self.body = nn.Linear(inputs, hidden, dtype=torch.float64)
            self.actor = nn.ModuleDict({n: nn.Linear(hidden, size, dtype=torch.float64) for n, size in choices.items()})
            self.critic = nn.Linear(hidden, 1, dtype=torch.float64)
        with torch.no_grad():
            for name, value in self.named_parameters():
                bound = 1 / math.sqrt(inputs) if name.startswith("body") else 0.0
                drawn = numpy_rng(seed, "controller", "init", name).uniform(-bound, bound, tuple(value.shape))
                value.copy_(torch.tensor(drawn))

    def forward(self, signals: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return logits of each factor, ``[B choices]``, and values ``[B]``."""
        hidden = torch.tanh(self.body(signals))
        return {name: layer(hidden) for name, layer in self.actor.items()}, self.critic(hidden)[:, 0]


class ActorCritic(ActionPolicy):
    """Sample an action factor by factor, and make what was better than expected more likely.

    Advantage actor-critic (Mnih et al. 2016, https://arxiv.org/abs/1602.01783) whose every reward is an episode of its
    own, with the clipped odds of Schulman et al. 2017 (https://arxiv.org/abs/1707.06347), so that the few rewards of a
    search are used in several lessons. Rewards are measured in standard deviations of those remembered, the critic's
    expectation is taken off, and advantages are normalised within a lesson. Computed in float64 on the CPU: the same
    rewards give the same bits.

    Args:
        seed: The run's seed.
        factors: What may be chosen.
        rules: The settings.
    """

    def __init__(self, *, seed: int, factors: Factors | None = None, rules: ActorCriticRules | None = None) -> None:
        super().__init__(seed=seed, factors=factors)
        self.rules = rules or ActorCriticRules()
        sizes = {name: len(choices) for name, choices in self.factors.choices.items() if len(choices) > 0}
        inputs = len(self._signals(Progress()))
        self._network = _Network(inputs, self.rules.hidden, sizes, seed=seed)
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=self.rules.lr, foreach=False)
        self._memory: list[tuple[Choice, float]] = []
        self._told = 0

    @torch.no_grad()
    def chances(self, progress: Progress, *, operation: Operation = "fresh") -> dict[str, list[float]]:
        """Return the probability of each choice of the factors that an operation reads, and of the operations."""
        logits, _ = self._network(torch.tensor([self._signals(progress)], dtype=torch.float64))
        found: dict[str, list[float]] = {}
        for name in self.factors.choices:
            mask = self.factors.open(name, None if name == "operation" else operation, progress.parents)
            if any(mask):
                found[name] = _chances(logits[name][0], mask)
        return found

    @torch.no_grad()
    def _choose(self, progress: Progress, rng: np.random.Generator) -> Choice:
        signals = self._signals(progress)
        logits, _ = self._network(torch.tensor([signals], dtype=torch.float64))
        places: dict[str, int] = {}
        masks: dict[str, tuple[bool, ...]] = {}
        chances: dict[str, float] = {}
        operation: Operation | None = None
        for name in self.factors.choices:
            mask = self.factors.open(name, operation, progress.parents)
            if any(mask):
                odds = _chances(logits[name][0], mask)
                places[name] = int(rng.choice(len(mask), p=np.array(odds) / sum(odds)))
                masks[name], chances[name] = tuple(mask), odds[places[name]]
            operation = operation or self.factors.operations[places["operation"]]
        return Choice(places=places, masks=masks, signals=tuple(signals), chances=chances)

    def _signals(self, progress: Progress) -> list[float]:
        return progress.signals(self.factors.families, self.factors.parents)

    def _learn(self, choice: Choice, reward: float) -> None:
        self._memory = [*self._memory, (choice, reward)][-self.rules.memory :]
        self._told += 1
        if self._told % self.rules.lesson == 0 and len(self._memory) > 1:
            for _ in range(self.rules.passes):
                self._step()

    def _step(self) -> None:
        """Take one step on what is remembered."""
        choices = [choice for choice, _ in self._memory]
        rewards = torch.tensor([reward for _, reward in self._memory], dtype=torch.float64)
        rewards = _normalised(rewards)
        logits, values = self._network(torch.tensor([choice.signals for choice in choices], dtype=torch.float64))
        now, entropy = self._odds(logits, choices)
        before = torch.tensor([sum(map(math.log, c.chances.values())) for c in choices], dtype=torch.float64)
        ratio = (now - before).exp()
        advantage = _normalised(rewards - values.detach())
        kept = ratio.clamp(1 - self.rules.clip, 1 + self.rules.clip)
        actor = -torch.minimum(ratio * advantage, kept * advantage).mean()
        critic = (values - rewards).square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        (actor + self.rules.value * critic - self.rules.entropy * entropy).backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), self.rules.norm, foreach=False)
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType]

    def _odds(self, logits: Mapping[str, Tensor], choices: Sequence[Choice]) -> tuple[Tensor, Tensor]:
        """Return the logarithm of each remembered action's probability, ``[B]``, and the mean entropy."""
        total = torch.zeros(len(choices), dtype=torch.float64)
        entropy = torch.zeros((), dtype=torch.float64)
        for name, table in logits.items():
            rows = [row for row, choice in enumerate(choices) if name in choice.places]
            if not rows:
                continue
            masks = torch.tensor([choices[row].masks[name] for row in rows])
            odds = _masked(table[rows], masks)
            places = torch.tensor([[choices[row].places[name]] for row in rows])
            total = total.index_add(0, torch.tensor(rows), odds.gather(1, places)[:, 0])
            entropy = entropy - (odds.exp() * odds).sum() / len(choices)
        return total, entropy

    def _learnt(self) -> Mapping[str, Any]:
        moments: dict[str, Any] = {}
        for name, parameter in self._network.named_parameters():
            kept = self._optimizer.state.get(parameter)
            if kept:
                moments[name] = {key: value.tolist() for key, value in kept.items()}
        return {
            "told": self._told,
            "memory": [[choice.to_dict(), reward] for choice, reward in self._memory],
            "weights": {name: value.tolist() for name, value in self._network.state_dict().items()},
            "moments": moments,
        }

    def _load_learnt(self, learnt: Mapping[str, Any]) -> None:
        self._told = int(learnt["told"])
        self._memory = [(Choice.from_dict(choice), float(reward)) for choice, reward in learnt["memory"]]
        weights = {name: torch.tensor(value, dtype=torch.float64) for name, value in learnt["weights"].items()}
        self._network.load_state_dict(weights, strict=True)
        self._optimizer.state.clear()
        for name, parameter in self._network.named_parameters():
            if name in learnt["moments"]:
                kept = learnt["moments"][name]
                # Adam counts its steps in float32.
                types = {key: torch.float32 if key == "step" else torch.float64 for key in kept}
                self._optimizer.state[parameter] = {k: torch.tensor(v, dtype=types[k]) for k, v in kept.items()}


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logarithms of probabilities in which what is closed has none."""
    return torch.log_softmax(logits.masked_fill(~mask, CLOSED), dim=-1)


def _chances(logits: Tensor, mask: Sequence[bool]) -> list[float]:
    """Return the probability of each choice; 0 for what is closed."""
    return [float(chance) for chance in _masked(logits, torch.tensor(mask)).exp()]


def _normalised(values: Tensor) -> Tensor:
    """Return values with mean 0 and deviation 1; all 0 where they are equal."""
    deviation = values.std(correction=0)
    return (values - values.mean()) / deviation if float(deviation) > LEAST_DEVIATION else torch.zeros_like(values)
