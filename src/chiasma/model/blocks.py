"""Pre-norm transformer blocks, learned positions, and the perceptron that everything else shares."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.model.attention import AttentionSpec, DotProduct, MultiHeadAttention, require_crossable, zero_padding
from chiasma.model.recompute import Passage


class TransformerSpec(Spec):
    """What every stack of transformer blocks has.

    Attributes:
        depth: Blocks.
        heads: Attention heads; must divide the model's dim.
        expansion: Width of the hidden layer of each block, in multiples of dim.
        dropout: Probability of zeroing a feature of what a block adds.
        attention: The attention inside.
    """

    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention: AttentionSpec = DotProduct()


class Positions(nn.Module):
    """A learned vector for each place; added to what it is called on. Weight decay leaves this type alone.

    Args:
        shape: Shape of one example, such as ``(N, D)``.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Return ``x`` plus the vectors of its places; a shorter sequence uses the first ones."""
        return x + self.table[: x.shape[1]]


class Mark(nn.Module):
    """A learned vector for all tokens of one kind; weight decay leaves this type alone.

    Args:
        dim: Width D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Return ``x`` plus the vector."""
        return x + self.vector


class TransformerBlock(nn.Module):
    """Attention, then a two-layer perceptron, each normalised before and added to what came in.

    Pre-norm (Xiong et al. 2020, https://arxiv.org/abs/2002.04745) with dropout on both branches and none on the
    attention weights, so that every kernel can be used.

    Args:
        dim: Width D.
        spec: Heads, expansion, dropout and attention; the depth is the caller's.
        crossed: Keys come from another sequence and have a norm of their own.

    Raises:
        ValueError: The attention needs a sequence that looks at itself, but the block is crossed.
    """

    def __init__(self, dim: int, spec: TransformerSpec, *, crossed: bool = False) -> None:
        super().__init__()
        if crossed:
            require_crossable(spec.attention)
        self.query_norm = nn.LayerNorm(dim)
        self.key_norm = nn.LayerNorm(dim) if crossed else None
        self.attention = MultiHeadAttention(dim, heads=spec.heads, attention=spec.attention, dropout=spec.dropout)
        self.norm = nn.LayerNorm(dim)
        self.perceptron = perceptron(dim, spec.expansion * dim, dim)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, queries: Tokens, keys: Tokens | None = None) -> Tokens:
        """Return the queries, changed by what they saw in ``keys``, or in themselves where that is None."""
        asking = Tokens(self.query_norm(queries.x), queries.mask)
        seen = asking
        if self.key_norm is not None:
            assert keys is not None
            seen = Tokens(self.key_norm(keys.x), keys.mask)
        x = queries.x + self.attention(asking, seen)
        x = x + self.dropout(self.perceptron(self.norm(x)))
        return Tokens(x, queries.mask, queries.boxes)


class Transformer(nn.Module):
    """A stack of blocks over one sequence, normalised at the end.

    Args:
        dim: Width D.
        spec: Depth and what the blocks are made of.
        crossed: The blocks look at another sequence instead of their own.
    """

    def __init__(self, dim: int, spec: TransformerSpec, *, crossed: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, spec, crossed=crossed) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(dim)
        self.passage = Passage()

    def forward(self, queries: Tokens, keys: Tokens | None = None) -> Tokens:
        """Return the sequence after all blocks; zeros where it is masked."""
        # What lies in the padding must not reach a norm's weights through the gradient, not even as NaN.
        queries = Tokens(zero_padding(queries), queries.mask, queries.boxes)
        keys = None if keys is None else Tokens(zero_padding(keys), keys.mask)
        for block in self.blocks:
            queries = self.passage(block, queries, keys)
        x = Tokens(self.norm(queries.x), queries.mask)
        return Tokens(zero_padding(x), queries.mask, queries.boxes)


def perceptron(inputs: int, hidden: int | None, outputs: int) -> nn.Module:
    """Return a linear map, or with ``hidden`` a perceptron with one hidden layer of that width."""
    if hidden is None:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def pooled(tokens: Tokens, pool: str) -> Tokens:
    """Return only the first token (``"cls"``), the mean of all (``"mean"``), or all as they are."""
    if pool == "cls":
        return Tokens(tokens.x[:, :1], tokens.mask[:, :1])
    return Tokens.single(tokens.mean(), tokens.present()) if pool == "mean" else tokens


def at_least_one(tokens: Tokens) -> Tokens:
    """Return the tokens with one zero vector that counts in each row that had none, so that an absent part can ask."""
    absent = ~tokens.present()
    mask = tokens.mask.clone()
    mask[:, 0] |= absent
    return Tokens(zero_padding(tokens), mask, tokens.boxes)
