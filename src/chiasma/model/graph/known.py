"""Mechanisms that the literature knows, as graphs: what a search may begin with, and what is no discovery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.node import Node


@dataclass(frozen=True)
class Known:
    """One mechanism.

    Attributes:
        name: What it is called.
        source: Who described it.
        address: Where.
        graph: Its core; positions are one-dimensional, and what a paper does to single heads is done to all.
    """

    name: str
    source: str
    address: str
    graph: AttentionGraph

    @property
    def words(self) -> str:
        """Return its name and who described it."""
        return f"{self.name} ({self.source})"


def _graph(
    *nodes: tuple[str, Sequence[str | int]] | tuple[str, Sequence[str | int], Mapping[str, Any]],
) -> AttentionGraph:
    rows = [{"op": node[0], "inputs": list(node[1]), "constants": dict(*node[2:])} for node in nodes]
    return AttentionGraph.from_dict({"nodes": rows})


_DOT = ("dot", ("q", "k"))


def _normalised(
    score: tuple[str, Sequence[str | int]], normaliser: str = "softmax", **constants: Any
) -> AttentionGraph:
    """Return values weighted by one score."""
    return _graph(score, (normaliser, (0,), constants), ("weighted_sum", (1, "v")))


def _between(name: str, **constants: Any) -> AttentionGraph:
    """Return standard attention with an operator between score and softmax."""
    return _graph(_DOT, (name, (0,), constants), ("softmax", (1,)), ("weighted_sum", (2, "v")))


def _sides(name: str, *sides: str) -> AttentionGraph:
    """Return standard attention with an operator on some of its inputs."""
    place = {side: index for index, side in enumerate(sides)}
    q, k, v = (place.get(side, side) for side in "qkv")
    score = len(sides)
    operators = [(name, (side,)) for side in sides]
    return _graph(*operators, ("dot", (q, k)), ("softmax", (score,)), ("weighted_sum", (score + 1, v)))


KNOWN: tuple[Known, ...] = (
    Known(
        "relative position bias",
        "Raffel et al. 2020",
        "https://arxiv.org/abs/1910.10683",
        _graph(_DOT, ("relative_bias", ()), ("add_scores", (0, 1)), ("softmax", (2,)), ("weighted_sum", (3, "v"))),
    ),
    Known(
        "learned positions alone",
        "Tay et al. 2021",
        "https://arxiv.org/abs/2005.00743",
        _normalised(("relative_bias", ())),
    ),
    Known("rotary positions", "Su et al. 2021", "https://arxiv.org/abs/2104.09864", _sides("rotary", "q", "k")),
    Known("query-key norm", "Henry et al. 2020", "https://arxiv.org/abs/2010.04245", _sides("layer_norm", "q", "k")),
    Known(
        "convolved projections",
        "So et al. 2021",
        "https://arxiv.org/abs/2109.08668",
        _sides("depthwise", "q", "k", "v"),
    ),
    Known(
        "locally enhanced values",
        "Dong et al. 2022",
        "https://arxiv.org/abs/2107.00652",
        _graph(_DOT, ("softmax", (0,)), ("weighted_sum", (1, "v")), ("depthwise", ("v",)), ("add", (2, 3))),
    ),
    Known(
        "convolved queries and keys",
        "Li et al. 2019",
        "https://arxiv.org/abs/1907.00235",
        _normalised(("convolutional", ("q", "k"))),
    ),
    Known(
        "cosine attention", "Liu et al. 2022", "https://arxiv.org/abs/2111.09883", _normalised(("cosine", ("q", "k")))
    ),
    Known(
        "additive attention",
        "Bahdanau et al. 2015",
        "https://arxiv.org/abs/1409.0473",
        _normalised(("additive", ("q", "k"))),
    ),
    Known(
        "bilinear attention",
        "Luong et al. 2015",
        "https://arxiv.org/abs/1508.04025",
        _normalised(("bilinear", ("q", "k"))),
    ),
    Known(
        "distance attention",
        "Kim et al. 2021",
        "https://arxiv.org/abs/2006.04710",
        _normalised(("distance", ("q", "k"))),
    ),
    Known("learned temperature", "Lee et al. 2021", "https://arxiv.org/abs/2112.13492", _between("temperature")),
    Known("soft-capped scores", "Gemma Team 2024", "https://arxiv.org/abs/2408.00118", _between("soft_cap")),
    Known("nearest keys alone", "Wang et al. 2022", "https://arxiv.org/abs/2106.00515", _between("top_k")),
    Known(
        "sparsemax", "Martins and Astudillo 2016", "https://arxiv.org/abs/1602.02068", _normalised(_DOT, "sparsemax")
    ),
    Known("1.5-entmax", "Peters et al. 2019", "https://arxiv.org/abs/1905.05702", _normalised(_DOT, "entmax")),
    Known(
        "sigmoid attention", "Ramapuram et al. 2024", "https://arxiv.org/abs/2409.04431", _normalised(_DOT, "sigmoid")
    ),
    Known(
        "squared ReLU attention",
        "Hua et al. 2022",
        "https://arxiv.org/abs/2202.10447",
        _normalised(_DOT, "relu_squared"),
    ),
    Known(
        "self-gated output",
        "Qiu et al. 2025",
        "https://arxiv.org/abs/2505.06708",
        _graph(_DOT, ("softmax", (0,)), ("weighted_sum", (1, "v")), ("gated_value", (2,))),
    ),
    Known(
        "linear attention",
        "Katharopoulos et al. 2020",
        "https://arxiv.org/abs/2006.16236",
        _graph(("linear_sum", ("q", "k", "v"), {"feature": "elu"})),
    ),
)
"""Each is built of the operators of attention graphs alone, so that it can be edited and crossed like any other."""


STANDARD = Known("standard attention", "Vaswani et al. 2017", "https://arxiv.org/abs/1706.03762", AttentionGraph())


def known_as(graph: AttentionGraph) -> Known | None:
    """Return the known mechanism that a graph is, whatever its constants, or None."""
    return _by_form().get(_form(graph))


@cache
def _by_form() -> Mapping[str, Known]:
    return {_form(each.graph): each for each in (*KNOWN, STANDARD)}


def _form(graph: AttentionGraph) -> str:
    """Return a hash of a graph with the usual value of every constant."""
    return AttentionGraph(nodes=tuple(Node(op=node.op, inputs=node.inputs) for node in graph.nodes)).content_hash()
