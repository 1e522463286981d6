"""A trunk whose members come and go: each proposes a change of every token, and a router weighs the proposals."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.model.attention import zero_padding
from chiasma.model.recompute import Passage
from chiasma.model.trunk.member import Member
from chiasma.model.trunk.members import (
    ConvolutionMemberSpec,
    MemberSpec,
    PerceptronSpec,
    TransformerMemberSpec,
)
from chiasma.model.trunk.router import Normaliser, Router, Routing

SMALL = 1e-9


@dataclass(frozen=True)
class Trunked:
    """What a trunk made of the fused tokens.

    Attributes:
        tokens: For the head.
        penalty: To be added to the loss while training; None for nothing.
        routing: How the members were weighed; its members in alphabetical order.
    """

    tokens: Tokens
    penalty: Float[Tensor, ""] | None
    routing: Routing


class Trunk(nn.Module, ABC):
    """Between fusion and head."""

    @abstractmethod
    def forward(self, fused: Tokens) -> Trunked:
        """Return as many tokens as came in."""


class Place(Spec):
    """A member's place in a population.

    Attributes:
        member: What it is.
        role: A ``member`` is weighed by the router. A ``newcomer`` stands beside it until it has shown what it is
            worth. One that is ``leaving`` teaches the others before it goes.
        parent: Whom it inherited its first weights from, one of its own kind.
        emphasis: How much more a newcomer learns from the examples of its focus than from others.
    """

    member: MemberSpec
    role: Literal["member", "newcomer", "leaving"] = "member"
    parent: str | None = None
    emphasis: float = Field(default=0.0, ge=0)


class PopulationSpec(Spec):
    """Members that each propose a change of every token, and a router that weighs them.

    Attributes:
        members: By name, which is part of their parameters' names.
        heads: Of the router; each weighs its own slice of the features.
        edges: Members hear of each other before they are weighed.
        routing: From scores to weights; ``entmax`` and ``sparsemax`` leave members out entirely.
        serve_top: In evaluation, only so many members are listened to for each example and head; None for all. It saves
            no time: the router weighs members by what they propose, so that all of them are computed.
        entropy: Weight in the loss of the weights' entropy: above 0, an example is sent to few members.
        balance: Weight in the loss of how unevenly members are used over a batch (Fedus et al. 2021,
            https://arxiv.org/abs/2101.03961, who use 0.01).
        lesson: Weight in the loss of the difference that a leaving member still makes.
    """

    kind: Literal["population"] = "population"
    members: Mapping[str, Place] = {
        "perceptron_1": Place(member=PerceptronSpec()),
        "residual_convolution_1": Place(member=ConvolutionMemberSpec()),
        "transformer_1": Place(member=TransformerMemberSpec()),
    }
    heads: int = Field(default=4, ge=1)
    edges: bool = True
    routing: Normaliser = "softmax"
    serve_top: int | None = Field(default=None, ge=1)
    entropy: float = Field(default=0.0, ge=0)
    balance: float = Field(default=0.01, ge=0)
    lesson: float = Field(default=1.0, ge=0)

    @field_validator("members")
    @classmethod
    def _some_are_weighed(cls, value: Mapping[str, Place]) -> Mapping[str, Place]:
        if not any(place.role == "member" for place in value.values()):
            raise ValueError(f"at least one must have the role member, but there are {len(value)} others")
        return value

    @model_validator(mode="after")
    def _plain_names(self) -> "PopulationSpec":
        for name in self.members:
            if not name.replace("_", "a").isalnum() or not name.islower():
                raise ValueError(f"members are named like perceptron_1, but one is called {name!r}")
        return self

    def check_heads(self, dim: int) -> None:
        """Refuse a width that heads of the router or of a member do not divide.

        Raises:
            ValueError: Names which.
        """
        counts = {"trunk.heads": self.heads}
        for name, place in self.members.items():
            if isinstance(place.member, TransformerMemberSpec):
                counts[f"trunk.members.{name}.member.heads"] = place.member.heads
        for path, heads in counts.items():
            if dim % heads:
                raise ValueError(f"dim must be divisible by {path}, but dim={dim} and heads={heads}")

    def build(self, dim: int) -> "Population":
        """Return the population with fresh weights."""
        return Population(dim, self)


class Focus(nn.Module):
    """Which examples a newcomer learns from most: those whose fused state lies near a centre.

    Args:
        dim: Width D.
        strength: How much more the gradient of an example in the centre counts.
    """

    def __init__(self, dim: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.centre: Tensor
        self.radius: Tensor
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("radius", torch.ones(()))

    def forward(self, state: Float[Tensor, "B D"], change: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Return the change as it is; only its gradient counts more near the centre, and as much as ever on average."""
        if not self.training or not change.requires_grad:
            return change
        nearness = torch.exp(-(state.detach() - self.centre).square().sum(-1) / (2 * self.radius.square()))
        counts = 1 + self.strength * nearness
        counts = (counts / counts.mean())[:, None, None]
        kept = change.detach()
        return kept + counts * (change - kept)


class Population(Trunk):
    """Members whose proposals a router weighs, with newcomers beside it.

    ``y = x + (1 - gate) * sum_m weight_m * gain_m * member_m(x) + sum_n sigmoid(opening_n) * newcomer_n(x)``: the gate
    leads back to the input. A newcomer's last layer is zero, so that its birth changes nothing.

    Args:
        dim: Width D.
        spec: Members and router; the population's own record of itself, true after every change.
    """

    def __init__(self, dim: int, spec: PopulationSpec) -> None:
        super().__init__()
        self.dim = dim
        self.spec = spec
        self.router = Router(dim, heads=spec.heads, edges=spec.edges, normaliser=spec.routing)
        self.passage = Passage()
        self.members = nn.ModuleDict()
        self.focuses = nn.ModuleDict()
        self.priors = nn.ParameterDict()
        self.gains = nn.ParameterDict()
        self.openings = nn.ParameterDict()
        # In sorted order, as in the canonical JSON: equal specs draw equal weights from one seed.
        for name in sorted(spec.members):
            self._seat(name, spec.members[name])

    @property
    def routed(self) -> list[str]:
        """Return the names of the members that the router weighs, in the order of its weights."""
        return sorted(name for name, place in self.spec.members.items() if place.role != "newcomer")

    @property
    def newcomers(self) -> list[str]:
        """Return the names of those that stand beside the router."""
        return sorted(name for name, place in self.spec.members.items() if place.role == "newcomer")

    def forward(self, fused: Tokens) -> Trunked:
        """Return the changed tokens, and while training what is to be added to the loss."""
        changes = self.propose(fused)
        done = self.join(fused, changes)
        if not self.training:
            return done
        terms = [*self._routing_terms(done.routing), *self._lesson(fused)]
        return Trunked(done.tokens, torch.stack(terms).sum() if terms else None, done.routing)

    def propose(self, fused: Tokens) -> dict[str, Float[Tensor, "B N D"]]:
        """Return the change that each member proposes, with zeros where tokens are masked."""
        tokens = Tokens(zero_padding(fused), fused.mask)
        state = tokens.mean()
        hidden = ~tokens.mask[..., None]
        changes: dict[str, Tensor] = {}
        for name in sorted(self.members):
            change = self.passage(self.members[name], tokens).masked_fill(hidden, 0.0)
            changes[name] = self.focuses[name](state, change) if name in self.focuses else change
        return changes

    def join(
        self, fused: Tokens, changes: Mapping[str, Float[Tensor, "B N D"]], *, without: str | None = None
    ) -> Trunked:
        """Weigh the changes and add them to the tokens; with ``without``, as if that member were not there."""
        tokens = Tokens(zero_padding(fused), fused.mask, fused.boxes)
        y, routing = self._routed(tokens, changes, [name for name in self.routed if name != without])
        for name in self.newcomers:
            if name != without:
                y = y + torch.sigmoid(self.openings[name]) * changes[name]
        return Trunked(Tokens(tokens.x + y, fused.mask, fused.boxes), None, routing)

    def _routed(
        self, tokens: Tokens, changes: Mapping[str, Float[Tensor, "B N D"]], names: list[str]
    ) -> tuple[Tensor, Routing]:
        """Return the sum of the weighed changes of some members; masked tokens are zero."""
        x = tokens.x
        if not names:
            empty = x.new_zeros(len(x), self.spec.heads, 0)
            return torch.zeros_like(x), Routing(empty, x.new_ones(len(x), 1, 1), None)
        stacked = torch.stack([self.gains[name] * changes[name] for name in names], dim=1)
        counts = tokens.mask.sum(1).clamp(min=1)[:, None, None]
        prior = torch.stack([self.priors[name] for name in names])
        routing = self.router(tokens.mean(), stacked.sum(2) / counts, prior)
        if not self.training and self.spec.serve_top is not None:
            routing = Routing(_highest(routing.weights, self.spec.serve_top), routing.gate, routing.edges)
        slices = stacked.unflatten(-1, (self.spec.heads, -1))
        mixed = torch.einsum("bhm,bmnhd->bnhd", routing.weights.to(slices.dtype), slices).flatten(-2)
        return (1 - routing.gate) * mixed, routing

    def _routing_terms(self, routing: Routing) -> list[Tensor]:
        """Return the entropy and the imbalance of the routing, each by its weight in the loss."""
        weights = routing.weights.float()
        terms: list[Tensor] = []
        if self.spec.entropy:
            terms.append(self.spec.entropy * -(weights * (weights + SMALL).log()).sum(-1).mean())
        if self.spec.balance:
            share = weights.mean((0, 1))
            terms.append(self.spec.balance * (len(share) * share.square().sum() - 1))
        return terms

    def _lesson(self, fused: Tokens) -> list[Tensor]:
        """Return how far the others are from doing what they do with the members that leave.

        It teaches members and router alone, never what lies before the trunk: that would rather make all tokens alike.
        So the members look once more, for the few steps in which somebody leaves, at tokens that pass no gradient on.
        """
        leaving = sorted(name for name, place in self.spec.members.items() if place.role == "leaving")
        if not leaving or not self.spec.lesson:
            return []
        fused = Tokens(fused.x.detach(), fused.mask, fused.boxes)
        changes = self.propose(fused)
        goal = self.join(fused, changes).tokens.x.detach()
        scale = goal.square().mean() + SMALL
        return [
            self.spec.lesson * (self.join(fused, changes, without=name).tokens.x - goal).square().mean() / scale
            for name in leaving
        ]

    def add(self, name: str, place: Place) -> None:
        """Take a newcomer in; it inherits from its parent as far as their shapes allow, and changes nothing yet.

        What is preserved exactly says :meth:`Member.inherit` of each kind; a parent of another kind leaves nothing.

        Raises:
            ValueError: Somebody has that name.
        """
        if name in self.spec.members:
            raise ValueError(f"A population has one member called {name!r} already.")
        self._seat(name, place)
        newcomer = self._member(name)
        if place.parent is not None and place.parent in self.members:
            parent = self._member(place.parent)
            if type(parent) is type(newcomer):
                newcomer.inherit(parent)
        newcomer.silence()
        self._record({**self.spec.members, name: place})

    def focus(self, name: str) -> Focus:
        """Return the focus of a newcomer that has one."""
        focus = self.focuses[name]
        assert isinstance(focus, Focus)
        return focus

    @torch.no_grad()
    def promote(self, name: str, *, prior: float, gain: float) -> None:
        """Have the router weigh a newcomer from now on.

        Args:
            name: The newcomer.
            prior: Is added to its score.
            gain: Its change is multiplied by this before it is weighed.
        """
        del self.openings[name]
        if name in self.focuses:
            del self.focuses[name]
        self.priors[name] = nn.Parameter(torch.tensor(prior))
        self.gains[name] = nn.Parameter(torch.tensor(gain))
        self._become(name, "member")

    def retire(self, name: str) -> None:
        """Have a member teach the others from now on, until it is pruned."""
        self._become(name, "leaving")

    def prune(self, name: str) -> None:
        """Remove a member with everything that is its own.

        Raises:
            ValueError: It is the last one that the router weighs.
        """
        self._record({other: place for other, place in self.spec.members.items() if other != name})
        for part in (self.members, self.focuses, self.priors, self.gains, self.openings):
            if name in part:
                del part[name]

    def _member(self, name: str) -> Member:
        member = self.members[name]
        assert isinstance(member, Member)
        return member

    def _seat(self, name: str, place: Place) -> None:
        self.members[name] = place.member.build(self.dim)
        if place.role == "newcomer":
            self.openings[name] = nn.Parameter(torch.zeros(()))
            if place.emphasis:
                self.focuses[name] = Focus(self.dim, place.emphasis)
        else:
            self.priors[name] = nn.Parameter(torch.zeros(()))
            self.gains[name] = nn.Parameter(torch.ones(()))

    def _become(self, name: str, role: str) -> None:
        place = self.spec.members[name].model_copy(update={"role": role})
        self._record({**self.spec.members, name: place})

    def _record(self, members: Mapping[str, Place]) -> None:
        self.spec = PopulationSpec.from_dict(
            {**self.spec.to_dict(), "members": {n: p.to_dict() for n, p in members.items()}}
        )


def _highest(weights: Float[Tensor, "B H M"], count: int) -> Float[Tensor, "B H M"]:
    """Return the ``count`` highest weights of each example and head, divided by their sum; the others are zero."""
    if count >= weights.shape[-1]:
        return weights
    kept = torch.zeros_like(weights).scatter(-1, weights.topk(count, dim=-1).indices, 1.0) * weights
    return kept / kept.sum(-1, keepdim=True).clamp(min=SMALL)
