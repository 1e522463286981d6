"""Every operator of composed fusions, in one literal table: its types, its code, its parameters, its formula.

Kinds: ``image``, ``text`` and ``joint`` are tokens ``B N D`` with a mask, ``vector`` is one vector a row ``B D``,
``gate`` a number for each feature ``B D``. A slot ``tokens`` takes tokens of any kind, ``any`` tokens or a vector, and
``like`` whatever the first input is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from chiasma.model.graph.ops import NOTHING, Constant, Growth

Kind = Literal["image", "text", "joint", "vector", "gate"]
Slot = Literal["image", "text", "tokens", "vector", "gate", "any", "like"]
Output = Literal["joint", "vector", "gate", "same"]
There = Literal["first", "union", "pooled", "joined", "asking", "modulated", "weighed"]

INPUTS: Mapping[str, Kind] = MappingProxyType({"image": "image", "text": "text"})
TOKENS: tuple[Kind, ...] = ("image", "text", "joint")

GATES: tuple[Constant, ...] = ("sigmoid", "tanh", "softmax")
NORMS: tuple[Constant, ...] = ("pre", "post", "none")


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes:
        inputs: What it takes.
        output: What it gives; ``same`` is the kind of its first input.
        code: Its expression in PyTorch. ``{a} {b} {c}`` are the inputs, ``{a_zero}`` the same with zeros where it is
            not there while the result is, ``{a_one}`` with ones, ``{a_mask}`` which of its tokens count, ``{a_there}``
            in which rows it is, ``{out_mask}`` which tokens of the result count, ``{part}`` its module; other names
            are its constants.
        formula: Its expression for a reader, with every constant, so that two fusions never read alike.
        there: Where its result is there: where its first input is (``first``), where any is (``union``), the same of
            tokens that become one vector (``pooled``), side by side (``joined``), where somebody can ask
            (``asking``), where there is something to modulate or to modulate it by (``modulated``), or where one of
            the first two inputs is (``weighed``).
        part: Constructor of its module for width ``dim``; empty for an operator without parameters.
        constants: Values that each constant may take, the usual one first.
        commutative: Whether its two inputs may be swapped.
        growth: How its output grows with its inputs, as in attention graphs.
        alike: Whether its first two inputs may be one value; for most operators that makes no sense.
    """

    inputs: tuple[Slot, ...]
    output: Output
    code: str
    formula: str
    there: There = "first"
    part: str = ""
    constants: Mapping[str, tuple[Constant, ...]] = field(default_factory=lambda: NOTHING)
    commutative: bool = False
    growth: Growth = "largest"
    alike: bool = False

    @property
    def learns(self) -> bool:
        """Return whether it has parameters, so that two of them are never one."""
        return bool(self.part)


OPS: Mapping[str, Op] = MappingProxyType(
    {
        # Tokens look at tokens.
        "attend": Op(
            ("tokens", "tokens"),
            "same",
            "{part}({a}, {out_mask}, {b}, {b_mask})",
            "attend{heads}{norm}{residual}{asks}({a} to {b})",
            there="asking",
            part="parts.Attend(dim, heads={heads}, attention={attention}, norm={norm!r}, residual={residual}, "
            "crossed={crossed}, dropout={dropout})",
            constants={"heads": (4, 1, 2, 8), "norm": NORMS, "residual": (True, False), "asks": (True, False)},
            alike=True,
        ),
        # Tokens to tokens, or vector to vector.
        "feed_forward": Op(
            ("any",),
            "same",
            "{part}({a})",
            "ff{expansion}{norm}{residual}({a})",
            part="parts.FeedForward(dim, expansion={expansion}, norm={norm!r}, residual={residual}, dropout={dropout})",
            constants={"expansion": (2, 1, 4), "norm": NORMS, "residual": (True, False)},
        ),
        "linear": Op(("any",), "same", "{part}({a})", "W·{a}", part="nn.Linear(dim, dim)"),
        "norm": Op(("any",), "same", "{part}({a})", "norm({a})", part="nn.LayerNorm(dim)", growth="bounded"),
        "activate": Op(
            ("any",),
            "same",
            "parts.activated({a}, {function!r})",
            "{function}({a})",
            constants={"function": ("gelu", "relu", "tanh")},
        ),
        "root": Op(("any",), "same", "parts.signed_root({a})", "√({a})"),
        "mark": Op(("tokens",), "same", "{part}({a})", "mark({a})", part="parts.Mark(dim)"),
        # Image meets text, vector meets vector.
        "join": Op(("image", "text"), "joint", "torch.cat([{a}, {b}], dim=1)", "[{a} | {b}]", there="joined"),
        "add": Op(("any", "like"), "same", "{a_zero} + {b_zero}", "({a} + {b})", there="union", commutative=True),
        "difference": Op(("any", "like"), "same", "{a_zero} - {b_zero}", "({a} - {b})", there="union"),
        "distance": Op(
            ("any", "like"), "same", "({a_zero} - {b_zero}).abs()", "|{a} - {b}|", there="union", commutative=True
        ),
        "multiply": Op(
            ("any", "like"),
            "same",
            "parts.product({a_one}, {b_one}, sums={sums})",
            "({a} ⊙{sums} {b})",
            there="union",
            constants={"sums": (False, True)},
            commutative=True,
            growth="product",
            alike=True,
        ),
        "bilinear": Op(
            ("vector", "vector"),
            "vector",
            "{part}({a}, {a_there}, {b}, {b_there})",
            "bilinear{rank}({a}, {b})",
            there="union",
            part="parts.LowRank(dim, rank={rank})",
            constants={"rank": (4, 1, 2, 8)},
            growth="product",
            alike=True,
        ),
        "concat": Op(
            ("vector", "vector"),
            "vector",
            "{part}(torch.cat([{a_zero}, {b_zero}], dim=-1))",
            "concat{hidden}({a}, {b})",
            there="union",
            part="parts.layers(2 * dim, {hidden} * dim, dim, dropout={dropout})",
            constants={"hidden": (2, 0, 1, 4)},
        ),
        "film": Op(
            ("any", "vector"),
            "same",
            "{part}({a}, {b}, {b_there})",
            "film({a} by {b})",
            there="modulated",
            part="parts.Modulation(dim)",
            growth="product",
        ),
        "weigh": Op(
            ("vector", "vector"),
            "vector",
            "{part}({a}, {a_there}, {b}, {b_there})",
            "weigh {by}({a}, {b})",
            there="weighed",
            part="parts.Weights(dim, by={by!r})",
            constants={"by": ("attention", "numbers")},
        ),
        # Gates.
        "gate": Op(
            ("vector",),
            "gate",
            "parts.squashed({part}({a}), {function!r})",
            "{function}(W·{a})",
            part="nn.Linear(dim, dim)",
            constants={"function": GATES},
            growth="bounded",
        ),
        "gate_of_both": Op(
            ("vector", "vector"),
            "gate",
            "parts.squashed({part}(torch.cat([{a_zero}, {b_zero}], dim=-1)), {function!r})",
            "{function}(W·[{a}, {b}])",
            there="union",
            part="nn.Linear(2 * dim, dim)",
            constants={"function": GATES},
            growth="bounded",
        ),
        "scale": Op(("any", "gate"), "same", "parts.gated({a}, {b}, {b_there})", "{a} ⊙ {b}", growth="product"),
        "mix": Op(
            ("vector", "vector", "gate"),
            "vector",
            "parts.mixed({a}, {a_there}, {b}, {b_there}, {c})",
            "mix({a}, {b} by {c})",
            there="weighed",
        ),
        # Tokens become one vector.
        "mean": Op(("tokens",), "vector", "parts.mean_of({a}, {a_mask})", "mean({a})", there="pooled"),
        "largest": Op(("tokens",), "vector", "parts.largest_of({a}, {a_mask})", "max({a})", there="pooled"),
        "first": Op(("tokens",), "vector", "parts.first_of({a}, {a_mask})", "first({a})", there="pooled"),
        "pool": Op(
            ("tokens",),
            "vector",
            "{part}({a}, {a_mask})",
            "pool({a})",
            there="pooled",
            part="parts.AttentionPool(dim)",
        ),
    }
)

POOLS = ("mean", "largest", "first", "pool")
"""Operators whose result is zero where it is not there."""


def fits(kind: Kind, slot: Slot, first: Kind | None = None) -> bool:
    """Return whether a slot takes a kind; ``first`` is the kind of the first input."""
    if slot == "any":
        return kind != "gate"
    if slot == "like":
        return kind == first
    return kind in TOKENS if slot == "tokens" else kind == slot


def output_kind(op: Op, given: list[Kind]) -> Kind:
    """Return what an operator makes of fitting inputs."""
    return given[0] if op.output == "same" else op.output
