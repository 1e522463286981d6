"""The typed graph of a fusion: a value that cannot be ill-typed."""

from functools import cached_property

from pydantic import field_validator

from chiasma.core.spec import Spec
from chiasma.model.attention import resolve_attention
from chiasma.model.fusion.composed.cancelling import vanishing
from chiasma.model.fusion.composed.node import FusionNode
from chiasma.model.fusion.composed.ops import INPUTS, OPS, Kind, fits, output_kind
from chiasma.model.fusion.composed.presence import Presence, overlap, union
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.canonical import order
from chiasma.model.graph.graph import STEEPEST, steepnesses
from chiasma.model.graph.node import Source

MOST_NODES = 32
There = tuple[Presence, ...]
"""Where a value is there; for joint tokens that of the image's tokens and that of the text's."""


class FusionTree(Spec):
    """A graph over ``image`` and ``text``, always in canonical form; the last node is the output.

    It is called a tree because that is how it reads; a value that is used twice has two users.

    Attributes:
        nodes: In an order in which inputs come first.

    Raises:
        ValueError: A node is given what it does not take, or the graph makes no fusion.
    """

    nodes: tuple[FusionNode, ...] = (
        FusionNode(op="mean", inputs=("image",)),
        FusionNode(op="mean", inputs=("text",)),
        FusionNode(op="concat", inputs=(0, 1)),
    )

    @field_validator("nodes")
    @classmethod
    def _checked(cls, nodes: tuple[FusionNode, ...]) -> tuple[FusionNode, ...]:
        if not nodes:
            raise ValueError("a fusion has at least one node, but got none")
        kinds_of(nodes)
        nodes = _canonical(_canonical(nodes))
        reason = why_senseless(nodes)
        if reason is not None:
            raise ValueError(reason)
        return nodes

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Return the kind of each node's output."""
        return kinds_of(self.nodes)

    @cached_property
    def there(self) -> tuple[There, ...]:
        """Return for each node in which rows its output is there."""
        return presences(self.nodes)

    @cached_property
    def heads(self) -> tuple[int, ...]:
        """Return every number of attention heads in use; each must divide the model's width."""
        return tuple(sorted({int(n.constants["heads"]) for n in self.nodes if n.op == "attend"}))

    @cached_property
    def every_token(self) -> bool:
        """Return whether it looks at single tokens, and not just at the mean of what an encoder returned."""
        given = [(node.op, source) for node in self.nodes for source in node.inputs]
        return any(isinstance(source, str) and op != "mean" for op, source in given)


def kinds_of(nodes: tuple[FusionNode, ...]) -> tuple[Kind, ...]:
    """Return the kind of each node's output.

    Raises:
        ValueError: A node is given a kind that it does not take, or a node that does not come before it.
    """
    kinds: list[Kind] = []
    for number, node in enumerate(nodes):
        given: list[Kind] = []
        for source, slot in zip(node.inputs, OPS[node.op].inputs, strict=True):
            kind = _kind(source, kinds, number)
            given.append(kind)
            if not fits(kind, slot, given[0]):
                wanted = f"another {given[0]}" if slot == "like" else f"{slot}"
                raise ValueError(f"node {number} ({node.op}) takes {wanted}, but {source} is {kind}")
        kinds.append(output_kind(OPS[node.op], given))
    return tuple(kinds)


def presences(nodes: tuple[FusionNode, ...]) -> tuple[There, ...]:
    """Return for each node of a well-typed graph in which rows its output is there."""
    found: list[There] = []
    for node in nodes:
        found.append(_there(node, [there_of(source, found) for source in node.inputs]))
    return tuple(found)


def there_of(source: Source, found: list[There] | tuple[There, ...]) -> There:
    """Return in which rows an input or the output of an earlier node is there."""
    if isinstance(source, int):
        return found[source]
    return ("image",) if source == "image" else ("text",)


def why_senseless(nodes: tuple[FusionNode, ...]) -> str | None:
    """Return why a well-typed canonical graph is no fusion, or None.

    Its output must be tokens or a vector that is there wherever an image or a text is. It must be small enough to be
    read, and must not grow so steeply with its inputs that single precision overflows.
    """
    kind, there = kinds_of(nodes)[-1], union(*presences(nodes)[-1])
    if kind == "gate":
        return "the output must be tokens or a vector, but it is a gate"
    if there != "either":
        return f"the output must be there wherever an image or a text is, but it is there only with {_with(there)}"
    if len(nodes) > MOST_NODES:
        return f"a fusion has at most {MOST_NODES} nodes, but this one has {len(nodes)}"
    for node in nodes:
        if len(node.inputs) > 1 and node.inputs[0] == node.inputs[1]:
            if not OPS[node.op].alike:
                return f"{node.op} needs two different inputs, but both are {node.inputs[0]!r}"
        elif node.attention is not None and resolve_attention(node.attention).self_only:
            return "attend is given an attention for a sequence that looks at itself, but here one looks at another"
    vanishes = vanishing(nodes)
    if vanishes is not None:
        return f"a {vanishes} must not vanish where a modality is absent, but its two inputs are the same there"
    steepness = _steepest(nodes)
    if steepness > STEEPEST:
        return f"a node may grow as its inputs to the power {STEEPEST} at most, but one grows to the power {steepness}"
    return None


def _canonical(nodes: tuple[FusionNode, ...]) -> tuple[FusionNode, ...]:
    """Return the canonical form, in which what makes no difference has the usual value."""
    placed = tuple(nodes[each.was].model_copy(update={"inputs": each.inputs}) for each in order(nodes, OPS))
    there = presences(placed)
    return tuple(_usual(node, [there_of(source, there) for source in node.inputs]) for node in placed)


def _usual(node: FusionNode, given: list[There]) -> FusionNode:
    """Return the node, with the usual answer to who asks where that changes nothing."""
    if node.op != "attend" or node.constants["asks"]:
        return node
    asking = node.model_copy(update={"constants": {**node.constants, "asks": True}})
    return asking if _there(asking, given) == _there(node, given) else node


def _there(node: FusionNode, given: list[There]) -> There:
    first = given[0]
    rows: list[Presence] = [union(*each) for each in given]
    match OPS[node.op].there:
        case "first":
            return first
        case "pooled":
            return (rows[0],)
        case "joined":
            return (rows[0], rows[1])
        case "weighed":
            return (union(rows[0], rows[1]),)
        case "modulated":
            return tuple(union(part, rows[1]) for part in first)
        case "union":
            return tuple(union(*parts) for parts in zip(*given, strict=True))
    if node.inputs[0] == node.inputs[1]:
        return first
    if node.constants["residual"]:
        return tuple(union(part, rows[1]) for part in first) if node.constants["asks"] else first
    return tuple(rows[1] if node.constants["asks"] else overlap(part, rows[1]) for part in first)


def _steepest(nodes: tuple[FusionNode, ...]) -> int:
    """Return the highest power of the inputs with which anything inside grows."""
    found: list[int] = []
    highest = 0
    for node in nodes:
        above = [1 if isinstance(source, str) else found[source] for source in node.inputs]
        by_growth = {"bounded": 0, "largest": max(above), "product": sum(above)}
        power = _of_attend(node, above) if node.op == "attend" else by_growth[OPS[node.op].growth]
        highest = max(highest, power)
        found.append(0 if node.constants.get("norm") == "post" else power)
    return highest


def _of_attend(node: FusionNode, above: list[int]) -> int:
    attention = node.attention
    inside = max(steepnesses(attention.graph.nodes)) if isinstance(attention, GraphAttention) else 1
    seen = 0 if node.constants["norm"] == "pre" else inside * max(above)
    return max(seen, above[0]) if node.constants["residual"] else seen


def _kind(source: Source, kinds: list[Kind], number: int) -> Kind:
    if isinstance(source, str):
        return INPUTS[source]
    if not 0 <= source < number:
        raise ValueError(f"node {number} may use nodes before it, but uses node {source}")
    return kinds[source]


def _with(there: Presence) -> str:
    return "both" if there == "both" else f"{'an' if there == 'image' else 'a'} {there}"
