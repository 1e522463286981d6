"""The router of a population: which members an example needs, by what it is and by what they propose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasma.model.graph import parts

Normaliser = Literal["softmax", "entmax", "sparsemax"]
NORMALISERS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax": parts.softmax,
    "entmax": parts.entmax,
    "sparsemax": parts.sparsemax,
}
# The gate back to the input begins at a tenth, so that the members' proposals count from the start.
NEARLY_OPEN = -2.2


@dataclass(frozen=True)
class Routing:
    """What a router decided for each example.

    Attributes:
        weights: Of each member in each head; they sum to one over members.
        gate: The part of the proposals that is left out in favour of the input.
        edges: How much each member heard of each other one before it was weighed; None without edges.
    """

    weights: Float[Tensor, "B H M"]
    gate: Float[Tensor, "B 1 1"]
    edges: Float[Tensor, "B M M"] | None


class Router(nn.Module):
    """Attention of the fused state over the members' proposals, which first hear of each other.

    Members are the nodes of a complete graph with learned edges (graph attention, Velickovic et al. 2018,
    https://arxiv.org/abs/1710.10903; unlike the paper, edges are scaled dot products). No weight belongs to one member,
    so that members come and go without touching the router.

    Args:
        dim: Width D.
        heads: Each weighs its own slice of the features; must divide ``dim``.
        edges: Members hear of each other.
        normaliser: From scores to weights; ``entmax`` and ``sparsemax`` can be exactly zero.

    Raises:
        ValueError: ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, *, heads: int, edges: bool, normaliser: Normaliser) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be divisible by heads, but dim={dim} and heads={heads}.")
        self.heads = heads
        self.normalise = NORMALISERS[normaliser]
        self.state_norm = nn.LayerNorm(dim)
        self.proposal_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.hearing = Hearing(dim) if edges else None
        self.gate = nn.Linear(dim, 1)
        nn.init.constant_(self.gate.bias, NEARLY_OPEN)

    def forward(
        self, state: Float[Tensor, "B D"], proposals: Float[Tensor, "B M D"], prior: Float[Tensor, " M"]
    ) -> Routing:
        """Return the weights of the members.

        Args:
            state: What the example is: the mean of its fused tokens.
            proposals: What each member proposes: the mean of its change.
            prior: Added to each member's score.
        """
        asking = self.state_norm(state)
        nodes = self.proposal_norm(proposals)
        edges = None
        if self.hearing is not None:
            nodes, edges = self.hearing(nodes)
        q = self.query(asking).unflatten(-1, (self.heads, 1, -1))
        k = self.key(nodes).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = (q @ k.transpose(-2, -1)).squeeze(-2) * q.shape[-1] ** -0.5 + prior
        weights = self.normalise(scores, torch.ones_like(scores, dtype=torch.bool))
        return Routing(weights, torch.sigmoid(self.gate(asking))[..., None], edges)


class Hearing(nn.Module):
    """Each node looks at all nodes and adds what it hears.

    Args:
        dim: Width D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)

    def forward(self, nodes: Float[Tensor, "B M D"]) -> tuple[Float[Tensor, "B M D"], Float[Tensor, "B M M"]]:
        """Return the changed nodes, and the edges: how much each row heard of each column."""
        scores = self.query(nodes) @ self.key(nodes).transpose(-2, -1) * nodes.shape[-1] ** -0.5
        edges = torch.softmax(scores, dim=-1)
        return nodes + edges @ self.value(nodes), edges
