"""From a graph to straight-line PyTorch: the source of a readable module, and the class that it defines.

``softmax(dot(a, b))`` times values, with nobody else looking at the weights, becomes one call of
``scaled_dot_product_attention``. Masks are put in here, never by the graph.
"""

import hashlib
import linecache
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional

from chiasma.model.graph import parts
from chiasma.model.graph.canonical import AnyNode, Operator
from chiasma.model.graph.formula import formula
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.node import Node, Source
from chiasma.model.graph.ops import OPS, Constant
from chiasma.model.kernel import AttentionKernel

CLASS = "DiscoveredAttention"
MASK = "mask"
NARROWED = ("score", "weight")
DIGITS = 4


def kernel_class(graph: AttentionGraph) -> type[AttentionKernel]:
    """Return the class of kernels that compute a graph; its constructor takes ``head_dim``."""
    return _defined(kernel_source(graph), graph.content_hash())


@lru_cache(maxsize=256)
def _defined(source: str, hash: str) -> type[AttentionKernel]:
    name = f"<attention graph {hash}>"
    # Known to linecache, tracebacks and debuggers show the lines.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope = {
        "AttentionKernel": AttentionKernel,
        "functional": functional,
        "nn": nn,
        "parts": parts,
        "torch": torch,
        "__name__": __name__,
    }
    exec(compile(source, name, "exec"), scope)  # Our own text: names and constants come from the table of operators.
    return scope[CLASS]  # pyright: ignore[reportReturnType]


def kernel_source(graph: AttentionGraph) -> str:
    """Return the source of the class that computes a graph."""
    return _Emitter(graph).source()


class _Emitter:
    """Writes the lines of ``forward`` node by node; each value and each mask has a name."""

    def __init__(self, graph: AttentionGraph) -> None:
        self.graph = graph
        self.nodes = graph.nodes
        self.fused = _fusible(graph.nodes)
        self.inside = {place for pair in self.fused.values() for place in pair}
        self.parts = part_names(graph.nodes)
        self.masks: list[str] = []
        self.values: list[str] = []
        self.lines: list[str] = []

    def source(self) -> str:
        for place, node in enumerate(self.nodes):
            self._emit(place, node)
        self.lines.append(f"return {self.values[-1]}")
        body = "\n".join(f"        {line}" for line in [*self._masks_of_tokens(), *self.lines])
        flag = "    mixes_queries = True\n\n" if self.graph.mixes_queries else ""
        return (
            f'class {CLASS}(AttentionKernel):\n    """{formula(self.graph)}"""\n\n{flag}{self._constructor()}'
            f"    def forward(self, q, k, v, mask):\n{body}\n"
        )

    def _constructor(self) -> str:
        lines = [
            f"        self.{name} = {OPS[self.nodes[place].op].part.format(**self.nodes[place].constants)}\n"
            for place, name in self.parts.items()
        ]
        return "    def __init__(self, head_dim):\n        super().__init__()\n" + "".join(lines) + "\n"

    def _masks_of_tokens(self) -> list[str]:
        text = "\n".join(self.lines)
        known = {"asking": "mask.any(-1, keepdim=True)", "shown": "mask.any(-2)[..., None]"}
        return [f"{name} = {code}" for name, code in known.items() if name in text]

    def _emit(self, place: int, node: Node) -> None:
        op = OPS[node.op]
        mask = self._met(place, node)
        code = self._fused_call(place) if place in self.fused else op.code.format(**self._names(place, node, mask))
        if op.masks:
            self.lines.append(f"mask_{place} = {code}")
            (scores,) = node.inputs
            self._remember(self._value(scores), f"mask_{place}")
            return
        if place not in self.inside:
            self.lines.append(f"x{place} = {code}")
        # What a mask narrowed is scores; tokens that were made of them count like any others.
        self._remember(f"x{place}", mask if op.output in NARROWED else MASK)

    def _remember(self, value: str, mask: str) -> None:
        self.values.append(value)
        self.masks.append(mask)

    def _names(self, place: int, node: Node, mask: str) -> dict[str, Constant]:
        given = [self._value(source) for source in node.inputs]
        counted = "asking" if self.graph.kinds[place] == "query" else "shown"
        parts_of = {"part": f"self.{self.parts.get(place)}", "mask": mask, "counted": counted}
        return {**dict(zip("abc", given, strict=False)), **node.constants, **parts_of}

    def _met(self, place: int, node: Node) -> str:
        """Return the name of what all the inputs show; whatever they show is within the kernel's own mask."""
        known = dict.fromkeys(self.masks[source] for source in node.inputs if isinstance(source, int))
        masks = [name for name in known if name != MASK]
        if len(masks) < 2:
            return masks[0] if masks else MASK
        self.lines.append(f"met_{place} = {' & '.join(masks)}")
        return f"met_{place}"

    def _value(self, source: Source) -> str:
        return source if isinstance(source, str) else self.values[source]

    def _fused_call(self, place: int) -> str:
        _, scores = self.fused[place]
        a, b = (self._value(source) for source in self.nodes[scores].inputs)
        values = self._value(self.nodes[place].inputs[1])
        return f"functional.scaled_dot_product_attention({a}, {b}, {values}, attn_mask=mask)"


def part_names(nodes: Sequence[AnyNode], ops: Mapping[str, Operator] = OPS) -> dict[int, str]:
    """Return the name of each learned part, by the place of its node: ``depthwise_k``, ``linear_1f3a``.

    A name says what the part acts on: an input by its letter, anything else by a digest of the expression. So a part
    keeps its name when something else in the graph changes, and no other part takes it.
    """
    written: list[str] = []
    names: dict[int, str] = {}
    for place, node in enumerate(nodes):
        given = [source if isinstance(source, str) else written[source] for source in node.inputs]
        written.append(f"{node.op}({','.join(given)}){dict(node.constants)}")
        if ops[node.op].learns:
            short = [each if each in node.inputs else _digest(each) for each in given]
            name = "_".join([node.op, *short])
            alike = sum(other == name or other.startswith(f"{name}_again") for other in names.values())
            names[place] = f"{name}_again{alike}" if alike else name
    return names


def _digest(expression: str) -> str:
    return hashlib.sha256(expression.encode()).hexdigest()[:DIGITS]


def _fusible(nodes: tuple[Node, ...]) -> dict[int, tuple[int, int]]:
    """Return the weighted sums that one call computes, each with its softmax and its dot product."""
    uses = Counter(source for node in nodes for source in node.inputs)
    found: dict[int, tuple[int, int]] = {}
    for place, node in enumerate(nodes):
        weights = node.inputs[0] if node.op == "weighted_sum" else None
        if not isinstance(weights, int) or nodes[weights].op != "softmax" or uses[weights] > 1:
            continue
        (scores,) = nodes[weights].inputs
        if isinstance(scores, int) and nodes[scores].op == "dot" and uses[scores] == 1:
            found[place] = (weights, scores)
    return found
