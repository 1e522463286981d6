"""The network of the double loop, and how it learns from what its actions led to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasma.adapt.controls import NAMES
from chiasma.adapt.signals import INPUTS, SLOPES
from chiasma.core.rng import kept_torch_generator, numpy_rng
from chiasma.train.controlling import LSTMController
from chiasma.train.design import Adam, OptimSpec
from chiasma.train.optim import NamedOptimizer

Memory = tuple[Tensor, Tensor]

# Means beyond this are the largest change anyway, and could hardly be unlearned.
FARTHEST_MEAN = 1.5
SPREADS = (0.05, 1.0)
# Of a lesson's gradient, as is usual for actor-critics (Mnih et al. 2016 clip too).
CLIP = 1.0
LARGEST_ADVANTAGE = 3.0
CRITIC = 0.5


@dataclass(frozen=True)
class Lesson:
    """Some decisions in a row and what they led to.

    Attributes:
        inputs: ``[T I]``.
        actions: ``[T O]``, before they were bounded.
        rewards: What was measured after each.
        following: The inputs after the last one; None where the past ends with it, as after a roll-back.
        begun: The LSTM's memory before the first one.
    """

    inputs: Sequence[Sequence[float]]
    actions: Sequence[Sequence[float]]
    rewards: Sequence[float]
    following: Sequence[float] | None
    begun: Memory


class Policy(nn.Module):
    """An LSTM with an actor, Gaussian about a bounded mean, and a critic.

    The last layers begin at zero, so that a fresh policy has no opinion but one: a rate follows its own hypergradient,
    as much as it is trusted.

    Args:
        hidden: Width of the LSTM.
        layers: Its layers.
        trust: What the mean of a rate's change follows its slope with, at first.
        explore: Standard deviation of an action, at first.
        seed: The weights follow from it.
    """

    def __init__(self, *, hidden: int, layers: int, trust: float, explore: float, seed: int) -> None:
        super().__init__()
        with kept_torch_generator():
            self.memory = nn.LSTM(len(INPUTS), hidden, layers, batch_first=True)
            self.actor = nn.Linear(hidden, len(NAMES))
            self.critic = nn.Linear(hidden, 1)
        self.trust = nn.Parameter(torch.full((len(SLOPES),), trust))
        self.spread = nn.Parameter(torch.full((len(NAMES),), math.log(explore)))
        self._begin(seed)

    def forward(
        self, inputs: Float[Tensor, "T I"], memory: Memory
    ) -> tuple[Float[Tensor, "T O"], Float[Tensor, " T"], Memory]:
        """Return means and values of decisions in a row, and the memory after them."""
        hidden, after = self.memory(inputs[None], memory)
        raw = self.actor(hidden[0])
        following = nn.functional.pad(self.trust * inputs[:, : len(SLOPES)], (0, len(NAMES) - len(SLOPES)))
        return FARTHEST_MEAN * torch.tanh((raw + following) / FARTHEST_MEAN), self.critic(hidden[0])[:, 0], after

    def fresh_memory(self) -> Memory:
        """Return the memory before anything was seen."""
        shape = (self.memory.num_layers, 1, self.memory.hidden_size)
        return torch.zeros(shape), torch.zeros(shape)

    @torch.no_grad()
    def _begin(self, seed: int) -> None:
        """Draw the LSTM's weights as torch does, but from a generator of their own, and silence the last layers."""
        bound = 1 / math.sqrt(self.memory.hidden_size)
        for name, value in self.memory.named_parameters():
            drawn = numpy_rng(seed, "controller", "init", name).uniform(-bound, bound, tuple(value.shape))
            value.copy_(torch.from_numpy(drawn))
        for layer in (self.actor, self.critic):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class ActorCritic:
    """A policy that acts and learns: advantage actor-critic (Mnih et al. 2016, https://arxiv.org/abs/1602.01783).

    Advantages look ahead as in Schulman et al. 2016 (https://arxiv.org/abs/1506.02438). One lesson is one step of Adam
    on decisions that the policy itself has taken; then they are forgotten.

    Args:
        spec: Sizes and rates.
        names: The outputs in use; nothing is learned about others.
        seed: The first weights follow from it.
    """

    def __init__(self, spec: LSTMController, names: Sequence[str], *, seed: int) -> None:
        self.spec = spec
        self.policy = Policy(hidden=spec.hidden, layers=spec.layers, trust=spec.trust, explore=spec.explore, seed=seed)
        self.optimizer = NamedOptimizer(
            self.policy, OptimSpec(algorithm=Adam(), lr=spec.lr, weight_decay=0.0, warmup=0.0, clip=CLIP)
        )
        self._mask = torch.tensor([float(name in names) for name in NAMES])

    @torch.no_grad()
    def decide(self, inputs: Sequence[float], memory: Memory) -> tuple[list[float], list[float], Memory]:
        """Return the mean and the standard deviation of each output, and the memory after it."""
        means, _, after = self.policy(torch.tensor([list(inputs)]), memory)
        return means[0].tolist(), self.policy.spread.exp().tolist(), (after[0].clone(), after[1].clone())

    def learn(self, lesson: Lesson) -> None:
        """Take one step: actions that led further than expected become likelier, and expectations truer.

        A step that is not finite is not taken.
        """
        self.optimizer.zero_grad()
        loss = self._loss(lesson)
        if not bool(torch.isfinite(loss)):
            return
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), CLIP)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            with torch.no_grad():
                self.policy.spread.clamp_(math.log(SPREADS[0]), math.log(SPREADS[1]))
        self.optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and moments by name."""
        weights = {f"policy/{name}": value.detach() for name, value in self.policy.state_dict().items()}
        return weights | {f"optimizer/{name}": value for name, value in self.optimizer.state().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`tensors`; strict."""
        self.policy.load_state_dict(within(tensors, "policy"), strict=True)
        self.optimizer.load_state(within(tensors, "optimizer"))

    def _loss(self, lesson: Lesson) -> Tensor:
        rows = [*lesson.inputs, *([] if lesson.following is None else [lesson.following])]
        means, values, _ = self.policy(torch.tensor([list(row) for row in rows]), lesson.begun)
        count = len(lesson.rewards)
        advantages = self._advantages(lesson, values.detach().tolist())
        returns = torch.tensor(advantages) + values[:count].detach()
        spread = self.policy.spread
        deviations = (torch.tensor([list(row) for row in lesson.actions]) - means[:count]) / spread.exp()
        likelihood = ((-0.5 * deviations.square() - spread) * self._mask).sum(-1)
        weights = torch.tensor(advantages).clamp(-LARGEST_ADVANTAGE, LARGEST_ADVANTAGE)
        freedom = (spread * self._mask).sum()
        surprise = (values[:count] - returns).square().mean()
        return -(weights * likelihood).mean() + CRITIC * surprise - self.spec.entropy * freedom

    def _advantages(self, lesson: Lesson, values: list[float]) -> list[float]:
        """Return by how much each decision led further than expected."""
        found: list[float] = []
        ahead = 0.0
        for place in reversed(range(len(lesson.rewards))):
            future = values[place + 1] if place + 1 < len(values) else 0.0
            surprise = lesson.rewards[place] + self.spec.discount * future - values[place]
            ahead = surprise + self.spec.discount * self.spec.trace * ahead
            found.append(ahead)
        return found[::-1]


def within(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``group/``, without it."""
    begin = f"{group}/"
    return {name.removeprefix(begin): value for name, value in tensors.items() if name.startswith(begin)}
