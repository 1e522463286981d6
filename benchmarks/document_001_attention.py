"""Attention as document 001 runs it: its fifteen operators, executed one by one, with the checks that it lacks.

It stands in for the original in ``document_001.py`` and is found by Chiasma as a plugin. Three operators raise, as in
the original, where they are not told the width of a head; and nothing checks how many inputs an operator has.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from chiasma.model.graph.parts import sparsemax
from chiasma.model.kernel import AttentionKernel, AttentionSettings

SCORES = ("scaled_dot_product", "bilinear", "additive_attention_score", "convolutional_score")
NORMALISERS = ("softmax", "sparsemax", "sigmoid")
VALUES = ("linear", "gelu", "layer_norm", "gated_value", "add", "multiply")
OPERATORS = (*SCORES, *NORMALISERS, "topk_filter", "weighted_sum", *VALUES)
BROKEN = ("additive_attention_score", "convolutional_score", "gated_value")
KEPT = 10

Node = tuple[str, tuple[str | int, ...]]


class Symbolic(AttentionSettings):
    """A list of operators; inputs are ``q``, ``k``, ``v`` or places of earlier ones, and the last is the result."""

    nodes: tuple[Node, ...]

    def build(self, head_dim: int) -> AttentionKernel:
        """Return the kernel.

        Raises:
            TypeError: One of the operators cannot be made, as in the original.
        """
        return SymbolicKernel(self.nodes, head_dim)


class SymbolicKernel(AttentionKernel):
    """Runs the operators in their order."""

    def __init__(self, nodes: Sequence[Node], head_dim: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.operators = nn.ModuleList(_Operator(name, head_dim) for name, _ in nodes)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Return what the last operator gives; the original knows no masks."""
        values: dict[str | int, Tensor] = {"q": q, "k": k, "v": v}
        for place, ((_, inputs), operator) in enumerate(zip(self.nodes, self.operators, strict=True)):
            values[place] = operator(*(values[source] for source in inputs))
        return values[len(self.nodes) - 1]


class _Operator(nn.Module):
    """One operator; those of one input ignore the others, and those of two raise where there is one."""

    def __init__(self, name: str, head_dim: int) -> None:
        super().__init__()
        if name in BROKEN:
            raise TypeError(f"{name} is not told how wide a head is.")
        self.name = name
        self.part = _part(name, head_dim)

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.name in _UNARY:
            return _UNARY[self.name](inputs[0])
        if self.part is not None and self.name != "bilinear":
            return self.part(inputs[0])
        first, second = inputs[0], inputs[1]
        if self.name == "bilinear":
            assert self.part is not None
            return self.part(first) @ second.transpose(-2, -1)
        return _BINARY[self.name](first, second)


def _part(name: str, head_dim: int) -> nn.Module | None:
    if name == "bilinear":
        return nn.Linear(head_dim, head_dim, bias=False)
    if name == "linear":
        return nn.Linear(head_dim, head_dim)
    return nn.LayerNorm(head_dim) if name == "layer_norm" else None


def _top_k(scores: Tensor) -> Tensor:
    least = scores.topk(min(KEPT, scores.shape[-1]), dim=-1).values[..., -1:]
    return scores.masked_fill(scores < least, float("-inf"))


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "sparsemax": lambda x: sparsemax(x, torch.ones((), dtype=torch.bool, device=x.device)),
    "sigmoid": torch.sigmoid,
    "topk_filter": _top_k,
    "gelu": functional.gelu,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scaled_dot_product": lambda a, b: a @ b.transpose(-2, -1) * a.shape[-1] ** -0.5,
    "weighted_sum": lambda a, b: a @ b,
    "add": lambda a, b: a + b,
    "multiply": lambda a, b: a * b,
}
