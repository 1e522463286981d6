"""The typed graph of an attention kernel: a value that cannot be ill-typed."""

from functools import cached_property

from pydantic import field_validator

from chiasma.core.spec import Spec
from chiasma.model.graph.canonical import canonical
from chiasma.model.graph.node import Node, Source
from chiasma.model.graph.ops import INPUTS, MIXING, OPS, Kind, Op

TOKENS = ("query", "key")
MOST_NODES = 20
STEEPEST = 6


class AttentionGraph(Spec):
    """A graph over ``q``, ``k`` and ``v``, always in canonical form; the last node is the output.

    Attributes:
        nodes: In an order in which inputs come first.

    Raises:
        ValueError: A node is given what it does not take, or the graph mixes no tokens, is too large or too steep.
    """

    nodes: tuple[Node, ...] = (
        Node(op="dot", inputs=("q", "k")),
        Node(op="softmax", inputs=(0,)),
        Node(op="weighted_sum", inputs=(1, "v")),
    )

    @field_validator("nodes")
    @classmethod
    def _checked(cls, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        if not nodes:
            raise ValueError("a graph has at least one node, but got none")
        kinds_of(nodes)
        nodes = canonical(nodes)
        reason = why_senseless(nodes)
        if reason is not None:
            raise ValueError(reason)
        return nodes

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Return the kind of each node's output."""
        return kinds_of(self.nodes)

    @cached_property
    def self_only(self) -> bool:
        """Return whether it feeds keys where queries go, or the reverse: only a sequence looking at itself can."""
        return any(_turns(source, slot, self.kinds) for node in self.nodes for source, slot in _slots(node, self.kinds))

    @cached_property
    def used(self) -> frozenset[str]:
        """Return which of ``q``, ``k`` and ``v`` matter."""
        return frozenset(source for node in self.nodes for source in node.inputs if isinstance(source, str))

    @cached_property
    def mixes_queries(self) -> bool:
        """Return whether tokens of the queries meet each other, so that it has to know which of them count."""
        places = enumerate(self.nodes)
        return any(
            node.op == "convolutional" or (node.op == "depthwise" and self.kinds[place] == "query")
            for place, node in places
        )


def kinds_of(nodes: tuple[Node, ...]) -> tuple[Kind, ...]:
    """Return the kind of each node's output.

    Raises:
        ValueError: A node is given a kind that it does not take, or a node that does not come before it.
    """
    kinds: list[Kind] = []
    for number, node in enumerate(nodes):
        op = OPS[node.op]
        given: list[Kind] = [_kind(source, kinds, number) for source in node.inputs]
        for source, kind, slot in zip(node.inputs, given, op.inputs, strict=True):
            if not fits(kind, slot):
                raise ValueError(f"node {number} ({node.op}) takes a {slot}, but {source} is a {kind}")
        kinds.append(output_kind(op, given))
    return tuple(kinds)


def fits(kind: Kind, slot: str) -> bool:
    """Return whether a slot takes a kind; tokens of either side are tokens."""
    if slot in ("query", "key", "tokens"):
        return kind in TOKENS
    return kind == slot


def output_kind(op: Op, given: list[Kind]) -> Kind:
    """Return what an operator makes of fitting inputs: tokens of both sides give tokens of the queries."""
    if op.output != "tokens":
        return op.output
    return "key" if set(given) == {"key"} else "query"


def why_senseless(nodes: tuple[Node, ...]) -> str | None:
    """Return why a well-typed canonical graph is no attention, or None.

    Its output must be tokens of the queries into which tokens were mixed, it must be small enough to be read, and must
    not grow so steeply with its inputs that single precision overflows.
    """
    kind = kinds_of(nodes)[-1]
    if kind != "query":
        return f"the output must be tokens of the queries, but it is a {kind}"
    if not any(node.op in MIXING for node in nodes):
        return "no tokens are mixed: the output depends on no weighted sum"
    if len(nodes) > MOST_NODES:
        return f"a graph has at most {MOST_NODES} nodes, but this one has {len(nodes)}"
    steepness = max(steepnesses(nodes))
    if steepness > STEEPEST:
        return f"a node may grow as its inputs to the power {STEEPEST} at most, but one grows to the power {steepness}"
    return None


def steepnesses(nodes: tuple[Node, ...]) -> list[int]:
    """Return for each node the power of the inputs with which it grows; 0 for what stays bounded."""
    found: list[int] = []
    for node in nodes:
        above = [1 if isinstance(source, str) else found[source] for source in node.inputs]
        largest = max(above, default=0)
        by_growth = {"bounded": 0, "largest": largest, "product": sum(above), "square": 2 * largest}
        found.append(by_growth[OPS[node.op].growth])
    return found


def _kind(source: Source, kinds: list[Kind], number: int) -> Kind:
    if isinstance(source, str):
        return INPUTS[source]
    if not 0 <= source < number:
        raise ValueError(f"node {number} may use nodes before it, but uses node {source}")
    return kinds[source]


def _slots(node: Node, kinds: tuple[Kind, ...]) -> list[tuple[Source, str]]:
    """Return each input of a node with the side that it has to be on; where sides only have to agree, the first's."""
    slots = list(OPS[node.op].inputs)
    if slots == ["tokens", "tokens"]:
        first = node.inputs[0]
        side = INPUTS[first] if isinstance(first, str) else kinds[first]
        slots = [side, side]
    return list(zip(node.inputs, slots, strict=True))


def _turns(source: Source, slot: str, kinds: tuple[Kind, ...]) -> bool:
    kind = INPUTS[source] if isinstance(source, str) else kinds[source]
    return slot in TOKENS and kind != slot
