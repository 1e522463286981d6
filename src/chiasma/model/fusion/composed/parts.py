"""What the operators of composed fusions are made of: small modules and functions that obey masks.

``mask`` is true where a token counts, ``B N``; ``there`` where a row has the value at all, ``B``.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from chiasma.data.batch import Tokens
from chiasma.model.attention import AttentionPlugin, AttentionSettings, MultiHeadAttention
from chiasma.model.blocks import Mark

__all__ = ["Mark"]

STEEP = 0.01


class Attend(nn.Module):
    """Tokens look at others, or at themselves, and are changed by what they see.

    Args:
        dim: Width D.
        heads: Must divide ``dim``.
        attention: Names the kernel and the projections.
        norm: Normalise what comes in (``pre``), what goes out (``post``), or nothing (``none``).
        residual: Add what was seen to who asked; else what was seen goes on alone.
        crossed: The tokens look at others, which have a norm of their own.
        dropout: Probability of zeroing a feature of what was seen.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        attention: AttentionSettings | AttentionPlugin,
        norm: str,
        residual: bool,
        crossed: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.crossed = crossed
        self.query_norm = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()
        self.key_norm = nn.LayerNorm(dim) if norm == "pre" and crossed else nn.Identity()
        self.attention = MultiHeadAttention(dim, heads=heads, attention=attention, dropout=dropout)
        self.norm = nn.LayerNorm(dim) if norm == "post" else nn.Identity()

    def forward(
        self,
        queries: Float[Tensor, "B Q D"],
        asking: Bool[Tensor, "B Q"],
        keys: Float[Tensor, "B K D"],
        shown: Bool[Tensor, "B K"],
    ) -> Float[Tensor, "B Q D"]:
        """Return the queries, changed by the keys."""
        given = Tokens(self.query_norm(queries), asking)
        seen = self.attention(given, Tokens(self.key_norm(keys), shown) if self.crossed else given)
        # What a masked query saw may depend on padding, and where its modality is absent it may ask again later.
        seen = filled(seen, asking, 0.0)
        return self.norm(queries + seen if self.residual else seen)


class FeedForward(nn.Module):
    """A perceptron for each vector alone.

    Args:
        dim: Width D.
        expansion: Width of the hidden layer in multiples of ``dim``.
        norm: Normalise what comes in (``pre``), what goes out (``post``), or nothing (``none``).
        residual: Add the result to what came in.
        dropout: Probability of zeroing a feature of the result.
    """

    def __init__(self, dim: int, *, expansion: int, norm: str, residual: bool, dropout: float) -> None:
        super().__init__()
        self.residual = residual
        self.before = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()
        self.perceptron = layers(dim, expansion * dim, dim, dropout=0.0)
        self.dropout = nn.Dropout(dropout)
        self.after = nn.LayerNorm(dim) if norm == "post" else nn.Identity()

    def forward(self, x: Float[Tensor, "B *N D"]) -> Float[Tensor, "B *N D"]:
        """Return as many vectors."""
        changed = self.dropout(self.perceptron(self.before(x)))
        return self.after(x + changed if self.residual else changed)


class LowRank(nn.Module):
    """A bilinear form of two vectors for each feature, each of low rank; an absent factor is one.

    Args:
        dim: Width D.
        rank: Products that are summed into each feature.
    """

    def __init__(self, dim: int, *, rank: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim * rank)
        self.second = nn.Linear(dim, dim * rank)
        self.rank = rank

    def forward(
        self, a: Float[Tensor, "B D"], a_there: Bool[Tensor, " B"], b: Float[Tensor, "B D"], b_there: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B D"]:
        """Return one vector a row."""
        products = filled(self.first(a), a_there, 1.0) * filled(self.second(b), b_there, 1.0)
        return products.unflatten(-1, (-1, self.rank)).sum(-1)


class Modulation(nn.Module):
    """A vector scales and shifts the features of another value; one that is absent leaves it as it is.

    Args:
        dim: Width D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, 2 * dim)

    def forward(
        self, x: Float[Tensor, "B *N D"], by: Float[Tensor, "B D"], there: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B *N D"]:
        """Return the modulated vectors."""
        scale, shift = spread(filled(self.map(by), there, 0.0), x).chunk(2, dim=-1)
        return x * (1 + scale) + shift


class Weights(nn.Module):
    """Two vectors weighed by learned numbers, or by attention to them; all weight goes to the one that is there.

    Args:
        dim: Width D.
        by: ``numbers`` or ``attention``.
    """

    def __init__(self, dim: int, *, by: str) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False) if by == "attention" else None
        self.trust = nn.Parameter(torch.zeros(2, 1)) if by == "numbers" else None

    def forward(
        self, a: Float[Tensor, "B D"], a_there: Bool[Tensor, " B"], b: Float[Tensor, "B D"], b_there: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B D"]:
        """Return one vector a row; zeros where neither is there."""
        there = torch.stack([a_there, b_there], dim=1)
        given = filled(torch.stack([a, b], dim=1), there, 0.0)
        if self.score is not None:
            return (shares(self.score(torch.tanh(given)), there) * given).sum(1)
        assert self.trust is not None
        return (shares(self.trust.expand(len(a), -1, -1), there) * given).sum(1)


class AttentionPool(nn.Module):
    """The tokens weighed by a learned score of each.

    Args:
        dim: Width D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
        """Return one vector a row; zeros for a row without tokens."""
        return (shares(self.score(x), mask) * filled(x, mask, 0.0)).sum(1)


def layers(inputs: int, hidden: int, outputs: int, *, dropout: float) -> nn.Module:
    """Return a linear map, or with ``hidden`` a perceptron with one hidden layer of that width."""
    if not hidden:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))


def filled(x: Tensor, there: Tensor, value: float) -> Tensor:
    """Return ``x`` with a value wherever the mask of its leading dimensions is false."""
    return x.masked_fill(~there.reshape(*there.shape, *[1] * (x.ndim - there.ndim)), value)


def at_least_one(mask: Bool[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
    """Return the mask with the first token of each row that has none, so that an absent modality can ask."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (first & ~mask.any(1, keepdim=True))


def mean_of(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
    """Return the mean of the tokens that count; zeros for a row without any."""
    return filled(x, mask, 0.0).sum(1) / mask.sum(1, keepdim=True, dtype=x.dtype).clamp(min=1.0)


def largest_of(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
    """Return the largest value of each feature among the tokens that count; zeros for a row without any."""
    return filled(filled(x, mask, torch.finfo(x.dtype).min).amax(1), mask.any(1), 0.0)


def first_of(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
    """Return the first token that counts; zeros for a row without any."""
    place = mask.int().argmax(1)[:, None, None].expand(-1, 1, x.shape[-1])
    return filled(x.gather(1, place).squeeze(1), mask.any(1), 0.0)


def shares(scores: Float[Tensor, "B N 1"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N 1"]:
    """Return the softmax of the scores that count; zeros for a row without any."""
    lowest = torch.finfo(scores.dtype).min
    return filled(torch.softmax(filled(scores, mask, lowest), dim=1), mask, 0.0)


def activated(x: Tensor, function: str) -> Tensor:
    """Return a function of each number."""
    if function == "gelu":
        return functional.gelu(x)
    return torch.relu(x) if function == "relu" else torch.tanh(x)


def signed_root(x: Tensor) -> Tensor:
    """Return about the root of each number's size with its sign; the slope at zero is finite."""
    return x * (x.abs() + STEEP).rsqrt()


def product(a: Tensor, b: Tensor, *, sums: bool) -> Tensor:
    """Return the product feature by feature, with the factors added to it if asked."""
    return a * b + a + b if sums else a * b


def squashed(x: Float[Tensor, "B D"], function: str) -> Float[Tensor, "B D"]:
    """Return a gate: in 0..1, with ``tanh`` in -1..1, with ``softmax`` relative to the feature that is most open."""
    if function == "softmax":
        return torch.exp(x - x.amax(-1, keepdim=True))
    return torch.sigmoid(x) if function == "sigmoid" else torch.tanh(x)


def gated(x: Float[Tensor, "B *N D"], gate: Float[Tensor, "B D"], there: Bool[Tensor, " B"]) -> Float[Tensor, "B *N D"]:
    """Return each feature times its gate; a gate that is absent is open."""
    return x * spread(filled(gate, there, 1.0), x)


def mixed(
    a: Float[Tensor, "B D"],
    a_there: Bool[Tensor, " B"],
    b: Float[Tensor, "B D"],
    b_there: Bool[Tensor, " B"],
    gate: Float[Tensor, "B D"],
) -> Float[Tensor, "B D"]:
    """Return ``b`` where the gate is one and ``a`` where it is zero; it is closed to what is absent."""
    gate = filled(filled(gate, a_there, 1.0), b_there, 0.0)
    return gate * b + (1 - gate) * a


def spread(vector: Float[Tensor, "B E"], x: Float[Tensor, "B *N D"]) -> Tensor:
    """Return a vector a row in a shape that meets each of the row's tokens."""
    return vector[:, None] if x.ndim > vector.ndim else vector
