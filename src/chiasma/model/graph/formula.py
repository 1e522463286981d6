"""A graph as a formula that a reader can follow."""

from collections.abc import Callable, Sequence

from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.node import Node, Source
from chiasma.model.graph.ops import OPS, Constant

SWITCHES = {"scaled": "/√d", "divided": "/n"}
"""What a formula has where such a constant is on."""


def formula(graph: AttentionGraph) -> str:
    """Return the output as an expression of ``q``, ``k`` and ``v``; what is used twice has a name."""
    return spelled([node.inputs for node in graph.nodes], lambda place, given: _written(graph.nodes[place], given))


def spelled(inputs: Sequence[tuple[Source, ...]], write: Callable[[int, list[str]], str]) -> str:
    """Return the last node of any graph as an expression; what is used twice has a name.

    Args:
        inputs: What each node takes.
        write: Returns how a node reads, given how its inputs do.
    """
    uses = [sum(each.count(place) for each in inputs) for place in range(len(inputs))]
    named = [place for place, count in enumerate(uses) if count > 1]
    names = {place: f"x{number + 1}" for number, place in enumerate(named)}

    def of(source: Source, *, spell: bool = False) -> str:
        if isinstance(source, str):
            return source
        if source in names and not spell:
            return names[source]
        return write(source, [of(each) for each in inputs[source]])

    whole = of(len(inputs) - 1)
    meanings = [f"{names[place]} = {of(place, spell=True)}" for place in named]
    return f"{whole} where {', '.join(meanings)}" if meanings else whole


def _written(node: Node, given: list[str]) -> str:
    bare = {name: _bare(name, value) for name, value in node.constants.items()}
    return OPS[node.op].formula.format(**dict(zip("abc", given, strict=False)), **bare)


def _bare(name: str, value: Constant) -> str:
    """Return a constant as it stands in a formula."""
    if isinstance(value, bool):
        return SWITCHES[name] if value else ""
    return f"{value:g}" if isinstance(value, float) else str(value)
