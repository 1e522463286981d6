"""What the operators of attention graphs are made of: small modules and functions that obey masks.

Masks are true where a token counts: ``mask`` is ``B 1 #Q K``, ``counted`` is ``B 1 N 1``.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

SMALL = 1e-6
OUTSIDE = -2.0  # Below any threshold of sparsemax and entmax, whose largest input is 0.


class Additive(nn.Module):
    """Scores ``w·tanh(U·q + V·k)`` (Bahdanau et al. 2015, https://arxiv.org/abs/1409.0473); B H Q K D numbers at once.

    Args:
        head_dim: Width D.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(head_dim, head_dim, bias=False)
        self.key = nn.Linear(head_dim, head_dim)
        self.score = nn.Linear(head_dim, 1, bias=False)

    def forward(self, q: Float[Tensor, "B H Q D"], k: Float[Tensor, "B H K D"]) -> Float[Tensor, "B H Q K"]:
        """Return one score a pair."""
        return self.score(torch.tanh(self.query(q)[:, :, :, None] + self.key(k)[:, :, None])).squeeze(-1)


class Taps(nn.Module):
    """A depthwise convolution along the tokens, alike for all heads; what does not count is zero.

    Args:
        head_dim: Width D.
        size: Neighbouring tokens that are seen; odd.
    """

    def __init__(self, head_dim: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, head_dim).uniform_(-1, 1) / size**0.5)

    def forward(self, x: Float[Tensor, "B H N D"], counted: Bool[Tensor, "B 1 #N 1"]) -> Float[Tensor, "B H N D"]:
        """Return as many tokens."""
        reach = len(self.weight) // 2
        padded = functional.pad(x.masked_fill(~counted, 0.0), (0, 0, reach, reach))
        # Shifted sums are several times faster on a CPU than a grouped convolution.
        total = padded[..., : x.shape[-2], :] * self.weight[0]
        for place in range(1, len(self.weight)):
            total = torch.addcmul(total, padded[..., place : place + x.shape[-2], :], self.weight[place])
        return total


class Temperature(nn.Module):
    """A learned positive factor, one for all heads.

    Args:
        start: Its value before training.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(start).log())

    def forward(self, scores: Tensor) -> Tensor:
        """Return the scores times the factor."""
        return scores * self.log.exp()


class RelativeBias(nn.Module):
    """A learned score for each distance between places, one for all heads (Shaw et al. 2018, Raffel et al. 2020).

    Unlike the papers, distances are clipped at ``reach`` and not put into logarithmic buckets.

    Args:
        reach: Distances beyond it share one score on each side.
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.table = nn.Parameter(torch.empty(2 * reach + 1).normal_(std=0.02))

    def forward(self, queries: int, keys: int) -> Float[Tensor, "1 1 Q K"]:
        """Return the scores of so many queries and keys."""
        places = torch.arange(max(queries, keys), device=self.table.device)
        distance = (places[:queries, None] - places[None, :keys]).clamp(-self.reach, self.reach)
        return self.table[distance + self.reach][None, None]


def scaled(tokens: Tensor, divide: bool) -> Tensor:
    """Return the tokens, divided by the root of their width if asked."""
    return tokens * tokens.shape[-1] ** -0.5 if divide else tokens


def unit(tokens: Tensor) -> Tensor:
    """Return the tokens at length one; the slope at zero is finite."""
    return tokens * (tokens.square().sum(-1, keepdim=True) + SMALL).rsqrt()


def distance(q: Float[Tensor, "B H Q D"], k: Float[Tensor, "B H K D"]) -> Float[Tensor, "B H Q K"]:
    """Return minus the squared distance of each pair, divided by the root of the width."""
    squares = q.square().sum(-1, keepdim=True) + k.square().sum(-1)[..., None, :]
    return (2 * q @ k.transpose(-2, -1) - squares) * q.shape[-1] ** -0.5


def top_k(scores: Tensor, mask: Bool[Tensor, "B #H #Q K"], count: int) -> Bool[Tensor, "B #H Q K"]:
    """Return which visible keys have one of the ``count`` highest scores of their query; ties stay together."""
    hidden = scores.detach().masked_fill(~mask, lowest(scores))
    threshold = hidden.topk(min(count, hidden.shape[-1]), dim=-1).values[..., -1:]
    return mask & (hidden >= threshold)


def softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return weights that sum to one over the visible keys; alike over all where none is visible."""
    return torch.softmax(scores.masked_fill(~mask, lowest(scores)), dim=-1)


def sparsemax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the nearest point of the simplex (Martins and Astudillo 2016, https://arxiv.org/abs/1602.02068)."""
    z = _from_the_best(scores, mask)
    with torch.no_grad():
        ordered, ranks = z.sort(dim=-1, descending=True).values, _ranks(z)
        size = (1 + ranks * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
        support = z >= ordered.gather(-1, size - 1)
    threshold = ((z * support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
    return (z - threshold).clamp(min=0) * support


def entmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return 1.5-entmax: between softmax and sparsemax (Peters et al. 2019, https://arxiv.org/abs/1905.05702)."""
    z = _from_the_best(scores, mask, factor=0.5)
    with torch.no_grad():
        ordered, ranks = z.sort(dim=-1, descending=True).values, _ranks(z)
        mean, square = ordered.cumsum(-1) / ranks, ordered.square().cumsum(-1) / ranks
        candidates = mean - ((1 - ranks * (square - mean.square())) / ranks).clamp(min=0).sqrt()
        size = (candidates <= ordered).sum(-1, keepdim=True)
        support = z >= ordered.gather(-1, size - 1)
    count = support.sum(-1, keepdim=True)
    mean = (z * support).sum(-1, keepdim=True) / count
    spread = ((z - mean).square() * support).sum(-1, keepdim=True)
    threshold = mean - ((1 - spread) / count).clamp(min=SMALL**2).sqrt()
    return ((z - threshold).clamp(min=0) * support).square()


def shared(weights: Tensor, mask: Tensor, divide: bool) -> Tensor:
    """Return the weights of the visible keys, divided by how many these are if asked; the others are zero."""
    weights = weights.masked_fill(~mask, 0.0)
    return weights / mask.sum(-1, keepdim=True).clamp(min=1) if divide else weights


def linear_sum(
    q: Float[Tensor, "B H Q D"],
    k: Float[Tensor, "B H K D"],
    v: Float[Tensor, "B H K D"],
    shown: Bool[Tensor, "B 1 K 1"],
    feature: str,
) -> Float[Tensor, "B H Q D"]:
    """Return the values weighed by products of positive features, at a cost linear in the number of tokens.

    Katharopoulos et al. 2020 (https://arxiv.org/abs/2006.16236).
    """
    asked, offered = _features(q, feature), _features(k, feature).masked_fill(~shown, 0.0)
    total = asked @ offered.sum(-2)[..., None]
    return asked @ (offered.transpose(-2, -1) @ v) / total.clamp(min=SMALL)


def rotary(tokens: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N D"]:
    """Return the tokens with each pair of features turned by an angle that grows with the place.

    Su et al. 2021 (https://arxiv.org/abs/2104.09864); an odd last feature stays.
    """
    half = tokens.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=tokens.device) / max(half, 1))
    angles = torch.arange(tokens.shape[-2], device=tokens.device)[:, None] * rates
    cosine, sine = angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype)
    first, second, rest = tokens.split((half, half, tokens.shape[-1] - 2 * half), dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine, rest], dim=-1)


def lowest(scores: Tensor) -> float:
    """Return the lowest number of the scores' type: infinities would poison gradients."""
    return torch.finfo(scores.dtype).min


def _features(tokens: Tensor, feature: str) -> Tensor:
    if feature == "elu":
        return functional.elu(tokens) + 1
    return functional.relu(tokens) + 1e-3 if feature == "relu" else torch.softmax(tokens, dim=-1)


def _from_the_best(scores: Tensor, mask: Tensor, factor: float = 1.0) -> Tensor:
    """Return the scores minus the best visible one; what is hidden lies outside of every support."""
    best = scores.detach().masked_fill(~mask, lowest(scores)).amax(-1, keepdim=True)
    return ((scores - best) * factor).masked_fill(~mask, OUTSIDE)


def _ranks(z: Tensor) -> Tensor:
    return torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
