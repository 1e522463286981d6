"""A graph as a formula that a reader can follow."""

from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.node import Node, Source
from chiasma.model.graph.ops import OPS, Constant

SWITCHES = {"scaled": "/√d", "divided": "/n"}
"""What a formula has where such a constant is on."""


def formula(graph: AttentionGraph) -> str:
    """Return the output as an expression of ``q``, ``k`` and ``v``; what is used twice has a name."""
    uses = [sum(node.inputs.count(place) for node in graph.nodes) for place in range(len(graph.nodes))]
    named = [place for place, count in enumerate(uses) if count > 1]
    names = {place: f"x{number + 1}" for number, place in enumerate(named)}

    def write(source: Source, *, spell: bool = False) -> str:
        if isinstance(source, str):
            return source
        if source in names and not spell:
            return names[source]
        return _written(graph.nodes[source], [write(each) for each in graph.nodes[source].inputs])

    whole = write(len(graph.nodes) - 1)
    meanings = [f"{names[place]} = {write(place, spell=True)}" for place in named]
    return f"{whole} where {', '.join(meanings)}" if meanings else whole


def _written(node: Node, given: list[str]) -> str:
    bare = {name: _bare(name, value) for name, value in node.constants.items()}
    return OPS[node.op].formula.format(**dict(zip("abc", given, strict=False)), **bare)


def _bare(name: str, value: Constant) -> str:
    """Return a constant as it stands in a formula."""
    if isinstance(value, bool):
        return SWITCHES[name] if value else ""
    return f"{value:g}" if isinstance(value, float) else str(value)
