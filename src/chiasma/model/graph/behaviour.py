"""What a mechanism does, whatever it is written like: a hash of its outputs on fixed inputs with fixed weights."""

import hashlib
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from chiasma.core.rng import derive_seed, kept_torch_generator
from chiasma.data.batch import Tokens
from chiasma.model.attention import MultiHeadAttention
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.ops import OPS

DIM, HEADS = 8, 2
LENGTHS = (40, 29)  # Longer than the largest number of keys that an operator chooses.
DIGITS = 3
SCALES = (0.6, 0.2)
"""Of the weights: with large ones scores are far apart and sparse weights sparse, with small ones the reverse."""


def fingerprint(attention: GraphAttention, *, crossed: bool = False) -> str:
    """Return 16 hexadecimal digits that are equal for mechanisms that compute the same.

    The mechanism runs in double precision on two fixed rows, one of them padded, with weights that depend on what a
    parameter is for and on how many such there were before it. Two mechanisms that differ by less than rounding to
    three digits, with large weights and with small ones, count as the same; two that are the same only after their
    weights are renamed may count as different.

    Args:
        attention: The mechanism with its projections.
        crossed: Queries and keys are different sequences.
    """
    with kept_torch_generator(), torch.no_grad():
        module = MultiHeadAttention(DIM, heads=HEADS, attention=attention).double().eval()
        keys = _tokens("keys", LENGTHS)
        queries = _tokens("queries", LENGTHS[::-1]) if crossed else keys
        outs: list[float] = []
        for scale in SCALES:
            fill(module, scale, purposes=OPS, below="kernel.")
            outs += (module(queries, keys)[queries.mask] + 0.0).flatten().tolist()
    return digest(outs, starts(attention))


def starts(attention: GraphAttention) -> list[str]:
    """Return where the learned numbers of a mechanism start: :func:`fill` hides it, and it makes another mechanism."""
    return sorted(f"{node.op} {dict(node.constants)}" for node in attention.graph.nodes if OPS[node.op].learns)


def digest(outs: Iterable[float], words: Iterable[str]) -> str:
    """Return 16 hexadecimal digits of outputs that are rounded to three digits, and of what else tells them apart."""
    rounded = [f"{value:.{DIGITS - 1}e}" for value in outs]
    return hashlib.sha256(" ".join([*words, *rounded]).encode()).hexdigest()[:16]


def fill(module: nn.Module, scale: float, *, purposes: Iterable[str], below: str) -> None:
    """Give every parameter numbers that depend on what it is for and on how many such there were before it.

    Args:
        module: Whose parameters.
        scale: Their standard deviation.
        purposes: What begins the name of an operator's part: the operators' names.
        below: What stands before such names.
    """
    seen: Counter[str] = Counter()
    known = tuple(purposes)
    for name, parameter in module.named_parameters():
        # What a part acts on is in its name too, and two ways of writing a graph need not share that.
        first, *rest = name.removeprefix(below).split(".")
        purpose = ".".join([max((op for op in known if first.startswith(op)), key=len, default=first), *rest])
        parameter.copy_(numbers(parameter, f"{purpose} {seen[purpose]}") * scale)
        seen[purpose] += 1


def _tokens(purpose: str, lengths: tuple[int, ...]) -> Tokens:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Tokens(numbers(torch.empty(len(lengths), max(lengths), DIM, dtype=torch.float64), purpose), mask)


def numbers(like: Tensor, purpose: str) -> Tensor:
    """Return fixed numbers for one purpose, in the shape and type of another tensor."""
    generator = torch.Generator().manual_seed(derive_seed(0, "fingerprint", purpose))
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)
