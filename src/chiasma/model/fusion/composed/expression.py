"""Fusions as nested expressions, which are easier to compose and to edit than numbered nodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from chiasma.model.attention import AttentionSpec
from chiasma.model.fusion.composed.ops import INPUTS, OPS, Kind, output_kind
from chiasma.model.fusion.composed.tree import FusionTree
from chiasma.model.graph.node import Source
from chiasma.model.graph.ops import Constant


@dataclass(frozen=True, eq=False)
class Expression:
    """One operator with the expressions that it takes; one that stands in two places is computed once.

    Attributes:
        op: Its name in the table of operators, or ``image`` or ``text``.
        inputs: What it takes.
        constants: What the table lets one choose; what is left out has the usual value.
        attention: How tokens look at tokens; None for the usual attention, and for operators that do not look.
    """

    op: str
    inputs: tuple["Expression", ...] = ()
    constants: Mapping[str, Constant] = field(default_factory=dict[str, Constant])
    attention: AttentionSpec | None = None

    @property
    def is_input(self) -> bool:
        """Return whether it is the image or the text itself."""
        return self.op in INPUTS

    @cached_property
    def kind(self) -> Kind:
        """Return the kind of its value."""
        if self.is_input:
            return INPUTS[self.op]
        return output_kind(OPS[self.op], [each.kind for each in self.inputs[:1]])


IMAGE = Expression("image")
TEXT = Expression("text")


def expression(op: str, *inputs: Expression, attention: AttentionSpec | None = None, **constants: Any) -> Expression:
    """Return an operator with its inputs and constants: ``expression("concat", a, b, hidden=1)``."""
    return Expression(op, inputs, constants, attention)


def parts_of(root: Expression) -> list[Expression]:
    """Return an expression and everything in it, each once, inputs before users."""
    found: dict[Expression, None] = {}

    def visit(each: Expression) -> None:
        if each not in found:
            for inner in each.inputs:
                visit(inner)
            found[each] = None

    visit(root)
    return list(found)


def substituted(root: Expression, changes: Mapping[Expression, Expression]) -> Expression:
    """Return an expression with some of its parts replaced, wherever they stand; replacements are left as they are."""
    done: dict[Expression, Expression] = dict(changes)
    for each in parts_of(root):
        if each not in done:
            inputs = tuple(done[inner] for inner in each.inputs)
            same = all(new is old for new, old in zip(inputs, each.inputs, strict=True))
            done[each] = each if same else Expression(each.op, inputs, each.constants, each.attention)
    return done[root]


def tree_of(root: Expression) -> FusionTree:
    """Return the value, in canonical form.

    Raises:
        ConfigError: The expression is ill-typed or makes no fusion.
    """
    places: dict[Expression, Source] = {}
    nodes: list[dict[str, Any]] = []
    for each in parts_of(root):
        if each.is_input:
            places[each] = each.op
            continue
        row: dict[str, Any] = {"op": each.op, "inputs": [places[inner] for inner in each.inputs]}
        row["constants"] = dict(each.constants)
        row["attention"] = None if each.attention is None else each.attention.to_dict()
        places[each] = len(nodes)
        nodes.append(row)
    return FusionTree.from_dict({"nodes": nodes}, where="tree")


def expression_of(tree: FusionTree) -> Expression:
    """Return the expression that a tree spells out."""
    found: list[Expression] = []
    inputs = {"image": IMAGE, "text": TEXT}
    for node in tree.nodes:
        given = tuple(inputs[source] if isinstance(source, str) else found[source] for source in node.inputs)
        found.append(Expression(node.op, given, node.constants, node.attention))
    return found[-1]
