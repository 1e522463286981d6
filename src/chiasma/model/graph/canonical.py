"""One form for all graphs that are written differently and are the same.

Dead nodes are gone, common subexpressions are shared, the inputs of commutative operators are ordered, and nodes
stand in the order in which a reader of the output first needs them. Two nodes with parameters are never one: each has
weights of its own.
"""

import hashlib
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiasma.model.graph.node import Node, Source
from chiasma.model.graph.ops import OPS

MOST_TIES = 6  # Each doubles the orders that are tried; more than two are rare.


AnyNode = Any
"""A node of any kind of graph: it has ``op``, ``inputs``, ``constants`` and ``key``. A protocol would say so, but would
be looked through at every call while shapes are checked."""

Operator = Any
"""What a table of any kind of graph says of an operator: whether it is ``commutative``, and whether it ``learns``."""


@dataclass(frozen=True)
class Placed:
    """A node of the canonical form: which node it was, and its inputs there."""

    was: int
    inputs: tuple[Source, ...]


def canonical(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the canonical form of nodes that stand in an order in which inputs come first."""
    return tuple(
        Node(op=nodes[placed.was].op, inputs=placed.inputs, constants=nodes[placed.was].constants)
        for placed in order(nodes, OPS)
    )


def order(nodes: Sequence[AnyNode], ops: Mapping[str, Operator]) -> list[Placed]:
    """Return the nodes of the canonical form of any graph whose operators a table describes."""
    same = _shared(nodes, ops)
    shapes = _shapes(nodes, same, ops)
    ties = [
        number
        for number in sorted(_needed(nodes, same))
        if ops[nodes[number].op].commutative and _is_tie(_sources(nodes, same, number), shapes)
    ][:MOST_TIES]
    orders = (
        _placed(nodes, same, shapes, swapped=frozenset(itertools.compress(ties, bits)), ops=ops)
        for bits in itertools.product((False, True), repeat=len(ties))
    )
    return min(orders, key=lambda each: [(repr(nodes[p.was].key), tuple(map(str, p.inputs))) for p in each])


def _shared(nodes: Sequence[AnyNode], ops: Mapping[str, Operator]) -> list[int]:
    """Return for each node the first one that computes the same from the same."""
    same: list[int] = []
    known: dict[Hashable, int] = {}
    for number, node in enumerate(nodes):
        op = ops[node.op]
        sources = tuple(same[source] if isinstance(source, int) else source for source in node.inputs)
        if op.learns:
            same.append(number)
            continue
        if op.commutative:
            sources = tuple(sorted(sources, key=str))
        same.append(known.setdefault((node.key, sources), number))
    return same


def _sources(nodes: Sequence[AnyNode], same: Sequence[int], number: int) -> tuple[Source, ...]:
    return tuple(same[source] if isinstance(source, int) else source for source in nodes[number].inputs)


def _needed(nodes: Sequence[AnyNode], same: Sequence[int]) -> set[int]:
    """Return the nodes from which the output is reached."""
    needed: set[int] = set()
    waiting = [same[-1]]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += [source for source in _sources(nodes, same, number) if isinstance(source, int)]
    return needed


def _shapes(nodes: Sequence[AnyNode], same: Sequence[int], ops: Mapping[str, Operator]) -> dict[Source, str]:
    """Return a hash of the tree above each node, without regard to which subtrees are shared."""
    shapes: dict[Source, str] = {each: each for node in nodes for each in node.inputs if isinstance(each, str)}
    for number, node in enumerate(nodes):
        above = [shapes[source] for source in _sources(nodes, same, number)]
        if ops[node.op].commutative:
            above.sort()
        shapes[number] = hashlib.sha256(repr((node.key, above)).encode()).hexdigest()
    return shapes


def _is_tie(sources: tuple[Source, ...], shapes: dict[Source, str]) -> bool:
    first, second = sources
    return first != second and shapes[first] == shapes[second]


def _placed(
    nodes: Sequence[AnyNode],
    same: Sequence[int],
    shapes: dict[Source, str],
    *,
    swapped: frozenset[int],
    ops: Mapping[str, Operator],
) -> list[Placed]:
    """Return the needed nodes in the order in which they are first needed, inputs before users."""
    found: list[Placed] = []
    place: dict[int, int] = {}

    def visit(number: int) -> int:
        if number not in place:
            sources = _sources(nodes, same, number)
            if ops[nodes[number].op].commutative:
                sources = _ordered(sources, shapes, swap=number in swapped)
            inputs = tuple(visit(source) if isinstance(source, int) else source for source in sources)
            found.append(Placed(number, inputs))
            place[number] = len(found) - 1
        return place[number]

    visit(same[-1])
    return found


def _ordered(sources: tuple[Source, ...], shapes: dict[Source, str], *, swap: bool) -> tuple[Source, ...]:
    by_shape: Callable[[Source], str] = shapes.__getitem__
    ordered = tuple(sorted(sources, key=by_shape))
    return ordered[::-1] if swap else ordered
