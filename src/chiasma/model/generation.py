"""The head that writes: a decoder over the data's own word pieces, which reads the fused tokens."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chiasma.data.batch import Output, TokenBatch, Tokens, cleared
from chiasma.data.signature import Target
from chiasma.model.attention import DotProduct, MultiHeadAttention
from chiasma.model.blocks import perceptron
from chiasma.model.head import Head, HeadSettings

PADDING, UNKNOWN, BEGIN, END = range(4)


@dataclass(frozen=True)
class Decoding:
    """How a text is written.

    Attributes:
        beams: Beginnings that are followed side by side; 1 takes the likeliest next piece each time.
        longest: Most token ids, begin and end included; None for as many as the head has places.
    """

    beams: int = 1
    longest: int | None = None


class DecoderLayer(nn.Module):
    """Each place looks at itself and at those before it, then at what is read, then thinks; normalised before each.

    Args:
        dim: Width D.
        heads: Attention heads.
        hidden: Width of the perceptron inside.
        dropout: Probability of zeroing a feature of what is added.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.own_norm, self.query_norm, self.key_norm, self.norm = (nn.LayerNorm(dim) for _ in range(4))
        self.joint = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.reading = MultiHeadAttention(dim, heads=heads, attention=DotProduct(), dropout=dropout)
        self.perceptron = perceptron(dim, hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B L D"], read: Tokens) -> Float[Tensor, "B L D"]:
        """Return the places with what was added to them."""
        x = x + self.dropout(self._looked_back(self.own_norm(x)))
        asking = Tokens(self.query_norm(x), torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))
        x = x + self.reading(asking, Tokens(self.key_norm(read.x), read.mask))
        return x + self.dropout(self.perceptron(self.norm(x)))

    def _looked_back(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        q, k, v = self.joint(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(2))


class GenerationHead(Head):
    """A causal transformer decoder (Vaswani et al. 2017, pre-norm) that attends to the fused tokens.

    Given the ids to predict it returns the scores of each next one; without them it writes, and returns the ids.
    Unlike the paper's, positions are learned, and one learned token is always there to be read, so that a row without
    any token stays finite.

    Args:
        dim: Width D of the tokens.
        vocabulary: Word pieces C.
        length: Most token ids L of a text, begin and end included.
        depth: Layers.
        heads: Attention heads.
        hidden: Width inside each layer.
        dropout: Probability of zeroing a feature.
    """

    def __init__(
        self, dim: int, *, vocabulary: int, length: int, depth: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.length = length
        self.decoding = Decoding()
        self.embedding = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.always = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads=heads, hidden=hidden, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.scores = nn.Linear(dim, vocabulary)

    def forward(self, fused: Tokens, tokens: TokenBatch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return the scores ``[B L-1 C]`` of each id after the first, or without ``targets`` the ids ``[B L]``."""
        x = torch.cat([self.always.expand(len(fused.x), -1, -1), cleared(fused.x, fused.mask)], dim=1)
        mask = torch.cat([fused.mask.new_ones(len(fused.x), 1), fused.mask], dim=1)
        read = Tokens(x, mask)
        if targets is not None:
            return Output(self._following(read, targets[:, :-1].long()))
        with torch.no_grad():
            return Output(self._written(read).float())

    def _following(self, read: Tokens, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L C"]:
        """Return the scores of what follows each id, of which it sees those before it."""
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, read)
        return self.scores(self.norm(x)).float()

    def _written(self, read: Tokens) -> Int[Tensor, "B L"]:
        """Follow the likeliest beginnings; of those the text with the greatest mean log-probability of its pieces."""
        rows, beams = len(read.x), self.decoding.beams
        longest = min(self.length, self.decoding.longest or self.length)
        wide = Tokens(read.x.repeat_interleave(beams, 0), read.mask.repeat_interleave(beams, 0))
        ids = torch.full((rows * beams, 1), BEGIN, dtype=torch.long, device=read.x.device)
        # In the beginning all beams are the same: only the first one counts.
        likely = torch.full((rows, beams), -torch.inf, device=read.x.device)
        likely[:, 0] = 0.0
        while ids.shape[1] < longest and not bool(_ended(ids).all()):
            log_p = self._next(wide, ids).reshape(rows, beams, -1)
            best, place = (likely[..., None] + log_p).flatten(1).topk(beams, dim=1)
            parent = (place // log_p.shape[-1] + torch.arange(rows, device=ids.device)[:, None] * beams).flatten()
            ids = torch.cat([ids[parent], (place % log_p.shape[-1]).reshape(-1, 1)], dim=1)
            likely = best
        counts = ((ids != PADDING).sum(1) - 1).clamp(min=1).reshape(rows, beams)
        chosen = (likely / counts).argmax(1) + torch.arange(rows, device=ids.device) * beams
        return functional.pad(ids[chosen], (0, self.length - ids.shape[1]))

    def _next(self, read: Tokens, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B C"]:
        """Return the log-probabilities of the next id; after the end there is padding, for nothing."""
        scores = self._following(read, ids)[:, -1]
        scores[:, [PADDING, BEGIN]] = -torch.inf
        log_p = scores.log_softmax(-1)
        after = torch.full_like(log_p, -torch.inf)
        after[:, PADDING] = 0.0
        return torch.where(_ended(ids)[:, None], after, log_p)


class Generation(HeadSettings):
    """A text, piece by piece.

    Attributes:
        hidden: Width inside each layer; None for four times that of the tokens.
        depth: Layers of the decoder.
        heads: Attention heads.
    """

    kind: Literal["generation"] = "generation"
    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)

    def build(self, dim: int, target: Target) -> Head:
        """Return a head for texts.

        Raises:
            ValueError: The target is of another task.
        """
        self.check(target)
        assert target.length is not None
        return GenerationHead(
            dim,
            vocabulary=target.outputs,
            length=target.length,
            depth=self.depth,
            heads=self.heads,
            hidden=self.hidden or 4 * dim,
            dropout=self.dropout,
        )


def _ended(ids: Tensor) -> Tensor:
    return (ids[:, -1] == END) | (ids[:, -1] == PADDING)
