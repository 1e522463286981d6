"""A mechanism or a fusion in the terminal: its formula, its graph as a tree, and its PyTorch source."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.syntax import Syntax
from rich.tree import Tree

from chiasma.cli.display import output
from chiasma.model.fusion import Composed, Generated
from chiasma.model.fusion.composed.known import known_fusion_as
from chiasma.model.fusion.composed.source import source_of
from chiasma.model.generated import is_approved
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.canonical import AnyNode
from chiasma.model.graph.formula import formula
from chiasma.model.graph.known import known_as
from chiasma.model.graph.node import Source
from chiasma.model.graph.source import module_source


def print_mechanism(place: str, attention: GraphAttention) -> None:
    """Print everything that a reader needs to follow one mechanism."""
    console = output()
    console.print(f"\n{place}: {formula(attention.graph)}", markup=False, soft_wrap=True)
    known = known_as(attention.graph)
    if known is not None:
        console.print(f"literature: {attention.known}, {known.address}", markup=False, soft_wrap=True)
    console.print(f"projections: {', '.join(attention.projections.learned) or 'none'}", markup=False)
    console.print(drawn(attention.graph.nodes))
    _print_source(module_source(attention))


def print_fusion(fusion: Composed) -> None:
    """Print everything that a reader needs to follow a composed fusion, and a module that runs without Chiasma."""
    console = output()
    console.print(f"\nfusion: {fusion.words}", markup=False, soft_wrap=True)
    known = known_fusion_as(fusion)
    if known is not None:
        console.print(f"known as: {known.words}", markup=False)
    console.print(drawn(fusion.tree.nodes))
    _print_source(source_of(fusion))


def print_generated(fusion: Generated) -> None:
    """Print generated source, and how whoever has read it lets it run."""
    console = output()
    approved = "approved" if is_approved(fusion.sha256) else "not approved: it runs in the jail"
    console.print(f"\nfusion: generated source {fusion.sha256}, {approved}", markup=False, soft_wrap=True)
    _print_source(printable(fusion.source))
    if not is_approved(fusion.sha256):
        console.print(f"Once you have read it and find it harmless: --trust {fusion.sha256}", markup=False)


def print_making(rewards: Mapping[str, float], conversation: Sequence[Mapping[str, Any]]) -> None:
    """Print what a fusion earned, part by part, and the conversation that led to it."""
    console = output()
    if rewards:
        parts = ", ".join(f"{name} {value:.4f}" for name, value in rewards.items())
        console.print(f"reward: {parts}", markup=False)
    for turn in conversation:
        refused = f" (refused: {printable(str(turn['refused']))})" if turn.get("refused") else ""
        console.print(f"\n[{turn['role']}]{refused}", markup=False)
        console.print(printable(str(turn["content"])), markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return text in which whatever could move the cursor, or turn the direction of reading, is spelled out."""
    plain = (each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text)
    return "".join(plain)


def _print_source(source: str) -> None:
    output().print(Syntax(source, "python", theme="ansi_dark", background_color="default"))


def drawn(nodes: Sequence[AnyNode]) -> Tree:
    """Return a graph as a tree from the output to the inputs; a node that is used again is named, not repeated."""
    seen: set[int] = set()

    def grow(branch: Tree, source: Source) -> None:
        if isinstance(source, str):
            branch.add(source)
            return
        node = nodes[source]
        constants = ", ".join(f"{name}={value}" for name, value in node.constants.items())
        words = f"x{source} {node.op}" + (f"({constants})" if constants else "")
        if source in seen:
            branch.add(escape(f"{words} (above)"))
            return
        seen.add(source)
        inner = branch.add(escape(words))
        for each in node.inputs:
            grow(inner, each)

    root = Tree("output")
    grow(root, len(nodes) - 1)
    return root
