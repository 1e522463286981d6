"""Every operator of attention graphs, in one literal table: its types, its code, its parameters, its formula.

Kinds: ``query`` and ``key`` are tokens ``B H Q D`` and ``B H K D``, ``score`` and ``weight`` are ``B H Q K``. A kind
``tokens`` takes either side and gives back the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Kind = Literal["query", "key", "score", "weight"]
Slot = Literal["query", "key", "tokens", "score", "weight"]
Growth = Literal["bounded", "largest", "product", "square"]
Constant = bool | int | float | str

INPUTS: Mapping[str, Kind] = MappingProxyType({"q": "query", "k": "key", "v": "key"})

NOTHING: Mapping[str, tuple[Constant, ...]] = MappingProxyType({})


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes:
        inputs: What it takes.
        output: What it gives; ``tokens`` is the side of its first input.
        code: Its expression in PyTorch. ``{a} {b} {c}`` are the inputs, ``{part}`` its module, ``{mask}`` what the
            score or weight may see, ``{counted}`` which tokens of the input's side count, other names its constants.
        formula: Its expression for a reader, with every constant, so that two mechanisms never read alike.
        part: Constructor of its module for heads of width ``head_dim``; empty for an operator without parameters.
        constants: Values that each constant may take, the usual one first.
        commutative: Whether its two inputs may be swapped.
        growth: How its output grows with its inputs: stays bounded, as the largest of them, as their product, or as
            the square of the largest.
        masks: It hides what it does not choose from everything after it.
    """

    inputs: tuple[Slot, ...]
    output: Slot
    code: str
    formula: str
    part: str = ""
    constants: Mapping[str, tuple[Constant, ...]] = field(default_factory=lambda: NOTHING)
    commutative: bool = False
    growth: Growth = "largest"
    masks: bool = False

    @property
    def learns(self) -> bool:
        """Return whether it has parameters, so that two of them are never one."""
        return bool(self.part)


OPS: Mapping[str, Op] = MappingProxyType(
    {
        # Query meets key: scores.
        "dot": Op(
            ("query", "key"),
            "score",
            "({a} * {a}.shape[-1] ** -0.5) @ {b}.transpose(-2, -1)",
            "{a}·{b}ᵀ/√d",
            growth="product",
        ),
        "bilinear": Op(
            ("query", "key"),
            "score",
            "parts.scaled({part}({a}), {scaled}) @ {b}.transpose(-2, -1)",
            "{a}·M·{b}ᵀ{scaled}",
            part="nn.Linear(head_dim, head_dim, bias=False)",
            constants={"scaled": (True, False)},
            growth="product",
        ),
        "additive": Op(
            ("query", "key"),
            "score",
            "{part}({a}, {b})",
            "w·tanh(U·{a} + V·{b})",
            part="parts.Additive(head_dim)",
            growth="bounded",
        ),
        "convolutional": Op(
            ("query", "key"),
            "score",
            "parts.scaled({part}({a}, asking), {scaled}) @ {part}({b}, shown).transpose(-2, -1)",
            "conv{size}({a})·conv{size}({b})ᵀ{scaled}",
            part="parts.Taps(head_dim, {size})",
            constants={"size": (3, 5, 7), "scaled": (True, False)},
            growth="product",
        ),
        "cosine": Op(
            ("query", "key"),
            "score",
            "{scale} * parts.unit({a}) @ parts.unit({b}).transpose(-2, -1)",
            "{scale}·cos({a}, {b})",
            constants={"scale": (10.0, 1.0, 4.0, 20.0)},
            growth="bounded",
        ),
        "distance": Op(
            ("query", "key"),
            "score",
            "parts.distance({a}, {b})",
            "-|{a} - {b}|²/√d",
            growth="square",
        ),
        "relative_bias": Op(
            (),
            "score",
            "{part}(q.shape[-2], k.shape[-2])",
            "bias{reach}[i-j]",
            part="parts.RelativeBias({reach})",
            constants={"reach": (16, 8, 32, 64)},
            growth="bounded",
        ),
        # Score to score.
        "add_scores": Op(("score", "score"), "score", "{a} + {b}", "({a} + {b})", commutative=True),
        "multiply_scores": Op(
            ("score", "score"), "score", "{a} * {b}", "({a} ⊙ {b})", commutative=True, growth="product"
        ),
        "temperature": Op(
            ("score",),
            "score",
            "{part}({a})",
            "τ{start}·{a}",
            part="parts.Temperature({start})",
            constants={"start": (1.0, 0.5, 2.0, 4.0)},
        ),
        "soft_cap": Op(
            ("score",),
            "score",
            "{cap} * torch.tanh({a} / {cap})",
            "cap{cap}({a})",
            constants={"cap": (10.0, 2.0, 5.0, 30.0)},
            growth="bounded",
        ),
        "top_k": Op(
            ("score",),
            "score",
            "parts.top_k({a}, {mask}, {count})",
            "top{count}({a})",
            constants={"count": (8, 4, 10, 16, 32)},
            masks=True,
        ),
        # Score to weight.
        "softmax": Op(("score",), "weight", "parts.softmax({a}, {mask})", "softmax({a})", growth="bounded"),
        "sparsemax": Op(("score",), "weight", "parts.sparsemax({a}, {mask})", "sparsemax({a})", growth="bounded"),
        "entmax": Op(("score",), "weight", "parts.entmax({a}, {mask})", "entmax({a})", growth="bounded"),
        "sigmoid": Op(
            ("score",),
            "weight",
            "parts.shared(torch.sigmoid({a}), {mask}, {divided})",
            "σ({a}){divided}",
            constants={"divided": (False, True)},
            growth="bounded",
        ),
        "relu_squared": Op(
            ("score",),
            "weight",
            "parts.shared(torch.relu({a}).square(), {mask}, {divided})",
            "relu²({a}){divided}",
            constants={"divided": (True, False)},
            growth="square",
        ),
        # Weight meets values: tokens are mixed.
        "weighted_sum": Op(("weight", "key"), "query", "{a} @ {b}", "{a}·{b}", growth="product"),
        "linear_sum": Op(
            ("query", "key", "key"),
            "query",
            "parts.linear_sum({a}, {b}, {c}, shown, {feature!r})",
            "φ{feature}({a})·(φ{feature}({b})ᵀ·{c})",
            constants={"feature": ("elu", "relu", "softmax")},
        ),
        # Tokens to tokens.
        "linear": Op(("tokens",), "tokens", "{part}({a})", "W·{a}", part="nn.Linear(head_dim, head_dim)"),
        "gelu": Op(("tokens",), "tokens", "functional.gelu({a})", "gelu({a})"),
        "layer_norm": Op(
            ("tokens",), "tokens", "{part}({a})", "norm({a})", part="nn.LayerNorm(head_dim)", growth="bounded"
        ),
        "gated_value": Op(
            ("tokens",), "tokens", "{a} * torch.sigmoid({part}({a}))", "gate({a})", part="nn.Linear(head_dim, head_dim)"
        ),
        "depthwise": Op(
            ("tokens",),
            "tokens",
            "{part}({a}, {counted})",
            "conv{size}({a})",
            part="parts.Taps(head_dim, {size})",
            constants={"size": (3, 5, 7)},
        ),
        "rotary": Op(("tokens",), "tokens", "parts.rotary({a})", "rot({a})"),
        "add": Op(("tokens", "tokens"), "tokens", "{a} + {b}", "({a} + {b})", commutative=True),
        "multiply": Op(("tokens", "tokens"), "tokens", "{a} * {b}", "({a} ⊙ {b})", commutative=True, growth="product"),
    }
)
"""Document 001's fifteen are ``dot bilinear additive convolutional softmax sparsemax sigmoid top_k weighted_sum
gated_value add multiply layer_norm gelu linear``; adding and multiplying are two operators here, for tokens and for
scores."""

MIXING = frozenset({"weighted_sum", "linear_sum"})
"""Operators at which tokens of the keys reach the queries."""

QUERY_MASK = "asking"
KEY_MASK = "shown"
