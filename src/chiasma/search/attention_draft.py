"""A graph that is being edited: nodes by number, in no order, with kinds, and a way back to the value."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chiasma.model.graph.graph import AttentionGraph, fits, output_kind
from chiasma.model.graph.node import Source
from chiasma.model.graph.ops import INPUTS, OPS, Kind


@dataclass
class DraftNode:
    """One operator of a draft; its inputs are ``q``, ``k``, ``v`` or numbers of any nodes that do not depend on it."""

    op: str
    inputs: list[Source]
    constants: dict[str, Any] = field(default_factory=dict[str, Any])


class Draft:
    """An editable copy of a graph. Every edit keeps it free of cycles; kinds are checked where an edge is made.

    Args:
        graph: What to copy.
    """

    def __init__(self, graph: AttentionGraph) -> None:
        self.nodes = [DraftNode(node.op, list(node.inputs), dict(node.constants)) for node in graph.nodes]
        self.output = len(self.nodes) - 1

    def add(self, op: str, inputs: Iterable[Source]) -> int:
        """Add a node and return its number."""
        self.nodes.append(DraftNode(op, list(inputs)))
        return len(self.nodes) - 1

    def graft(self, other: "Draft", root: int) -> int:
        """Copy a node of another draft with all that it depends on, and return the copy's number."""
        copies: dict[int, int] = {}
        for number in sorted(other.needed(root), key=other.order(root).index):
            node = other.nodes[number]
            inputs = [copies[source] if isinstance(source, int) else source for source in node.inputs]
            copies[number] = self.add(node.op, inputs)
            self.nodes[copies[number]].constants = dict(node.constants)
        return copies[root]

    def kind(self, source: Source) -> Kind:
        """Return what a source gives."""
        if isinstance(source, str):
            return INPUTS[source]
        node = self.nodes[source]
        return output_kind(OPS[node.op], [self.kind(each) for each in node.inputs])

    def users(self, source: Source) -> list[tuple[int, int]]:
        """Return the edges that a source feeds: node and place among its inputs."""
        return [
            (number, place)
            for number in self.order(self.output)
            for place, given in enumerate(self.nodes[number].inputs)
            if given == source and type(given) is type(source)
        ]

    def redirect(self, old: int, new: Source) -> None:
        """Let everything that used one source use another, the output too."""
        for number, place in self.users(old):
            self.nodes[number].inputs[place] = new
        if self.output == old and isinstance(new, int):
            self.output = new

    def sources(self, slot: str, *, without: int | None = None) -> list[Source]:
        """Return what fits a slot; without a node, also without what depends on it."""
        inside = [n for n in self.order(self.output) if without is None or not self.depends(n, without)]
        found: list[Source] = [name for name, kind in INPUTS.items() if fits(kind, slot)]
        return found + [number for number in inside if fits(self.kind(number), slot)]

    def depends(self, number: int, on: int) -> bool:
        """Return whether a node is another one, or is computed from it."""
        return on in self.needed(number)

    def needed(self, root: int) -> set[int]:
        """Return a node with all nodes that it depends on."""
        found: set[int] = set()
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting += [source for source in self.nodes[number].inputs if isinstance(source, int)]
        return found

    def order(self, root: int) -> list[int]:
        """Return a node with all that it depends on, inputs first."""
        done: list[int] = []
        seen: set[int] = set()

        def visit(number: int) -> None:
            if number in seen:
                return
            seen.add(number)
            for source in self.nodes[number].inputs:
                if isinstance(source, int):
                    visit(source)
            done.append(number)

        visit(root)
        return done

    def finish(self) -> AttentionGraph:
        """Return the value, in canonical form.

        Raises:
            ConfigError: The graph makes no sense; the reason is given.
        """
        order = self.order(self.output)
        place = {number: position for position, number in enumerate(order)}
        nodes: list[dict[str, Any]] = []
        for number in order:
            node = self.nodes[number]
            inputs = [place[source] if isinstance(source, int) else source for source in node.inputs]
            nodes.append({"op": node.op, "inputs": inputs, "constants": node.constants})
        return AttentionGraph.from_dict({"nodes": nodes}, where="graph")
