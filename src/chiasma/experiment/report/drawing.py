"""Attention graphs and composed fusions as SVG: inputs at the left, the output at the right, one column a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from chiasma.model.fusion.composed import formula as fusion_words
from chiasma.model.fusion.composed import ops as fusion_ops
from chiasma.model.fusion.composed.tree import FusionTree
from chiasma.model.graph import ops
from chiasma.model.graph.canonical import AnyNode
from chiasma.model.graph.formula import formula
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.node import Source
from chiasma.model.graph.ops import Constant

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, PAD = 116, 30, 44, 18, 12
CAPTION, LETTER = 24, 7.5
FILLS = {"query": "#dbeafe", "key": "#dcfce7", "score": "#fef3c7", "weight": "#fde2e2"}
FILLS |= {"image": "#dbeafe", "text": "#dcfce7", "joint": "#e0e7ff", "vector": "#fef3c7", "gate": "#fde2e2"}


@dataclass(frozen=True)
class Diagram:
    """What is drawn of any kind of graph.

    Attributes:
        inputs: The kind of each input, by its name.
        nodes: The operators, inputs first.
        kinds: The kind of each operator's output.
        usual: The values of each operator's constants, the usual one first; that one is not drawn.
        caption: What stands below.
    """

    inputs: Mapping[str, str]
    nodes: Sequence[AnyNode]
    kinds: Sequence[str]
    usual: Mapping[str, Mapping[str, tuple[Constant, ...]]]
    caption: str


def draw(graph: AttentionGraph | FusionTree) -> Markup:
    """Return the drawing with the formula below it.

    Boxes are coloured by what they give: tokens of queries or keys, scores, weights; or tokens of the image, of the
    text or of both, vectors, gates.
    """
    if isinstance(graph, FusionTree):
        usual = {name: op.constants for name, op in fusion_ops.OPS.items()}
        return _drawn(Diagram(fusion_ops.INPUTS, graph.nodes, graph.kinds, usual, fusion_words.formula(graph)))
    usual = {name: op.constants for name, op in ops.OPS.items()}
    return _drawn(Diagram(ops.INPUTS, graph.nodes, graph.kinds, usual, formula(graph)))


def _drawn(graph: Diagram) -> Markup:
    columns = _columns(graph)
    rows: dict[Source, int] = {}
    filled: dict[int, int] = {}
    for source, column in columns.items():
        rows[source] = filled.get(column, 0)
        filled[column] = rows[source] + 1
    tallest = max(filled.values())
    places = {
        source: (
            PAD + column * (BOX_WIDTH + GAP_X),
            PAD + (rows[source] + (tallest - filled[column]) / 2) * (BOX_HEIGHT + GAP_Y),
        )
        for source, column in columns.items()
    }
    words = graph.caption
    width = max(2 * PAD + (max(columns.values()) + 1) * (BOX_WIDTH + GAP_X) - GAP_X, 2 * PAD + LETTER * len(words))
    height = 2 * PAD + tallest * (BOX_HEIGHT + GAP_Y) - GAP_Y + CAPTION
    edges = [
        _edge(places[source], places[number], place, len(node.inputs))
        for number, node in enumerate(graph.nodes)
        for place, source in enumerate(node.inputs)
    ]
    boxes = [_box(places[source], *_label(graph, source)) for source in columns]
    caption = f'<text x="{PAD}" y="{height - PAD:g}" fill="#0f172a">{escape(words)}</text>'
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="sans-serif" font-size="12">'
        f"{''.join([*edges, *boxes])}{caption}</svg>"
    )


def _columns(graph: Diagram) -> dict[Source, int]:
    """Return the column of each node, one behind the last of its inputs; inputs stand just before their first user."""
    depth: dict[Source, int] = dict.fromkeys(graph.inputs, 0)
    for number, node in enumerate(graph.nodes):
        depth[number] = 1 + max((depth[source] for source in node.inputs), default=-1)
    users = {name: [depth[n] for n, node in enumerate(graph.nodes) if name in node.inputs] for name in graph.inputs}
    inputs: dict[Source, int] = {name: min(places) - 1 for name, places in users.items() if places}
    return inputs | {number: depth[number] for number in range(len(graph.nodes))}


def _label(graph: Diagram, source: Source) -> tuple[str, str]:
    """Return the text and the colour of a box."""
    if isinstance(source, str):
        return source, FILLS[graph.inputs[source]]
    node = graph.nodes[source]
    constants = " ".join(
        f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in node.constants.items()
        if value != graph.usual[node.op][name][0]
    )
    return f"{node.op.replace('_', ' ')} {constants}".strip(), FILLS[graph.kinds[source]]


def _box(place: tuple[float, float], text: str, fill: str) -> str:
    x, y = place
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{fill}" stroke="#64748b"/>'
        f'<text x="{x + BOX_WIDTH / 2:g}" y="{y + BOX_HEIGHT / 2 + 4:g}" text-anchor="middle" fill="#0f172a">'
        f"{escape(text)}</text>"
    )


def _edge(start: tuple[float, float], end: tuple[float, float], place: int, count: int) -> str:
    """Return a curve into its own place at the left of a box, so that the order of inputs can be seen."""
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0], end[1] + BOX_HEIGHT * (place + 1) / (count + 1)
    bend = (x2 - x1) / 2
    return (
        f'<path d="M{x1:g} {y1:g} C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}" fill="none" '
        'stroke="#64748b" stroke-width="1.5"/>'
    )
