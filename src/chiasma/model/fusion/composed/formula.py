"""A fusion as a formula that a reader can follow."""

from chiasma.model.fusion.composed.node import FusionNode
from chiasma.model.fusion.composed.ops import OPS
from chiasma.model.fusion.composed.tree import FusionTree
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.formula import spelled
from chiasma.model.graph.ops import Constant

SWITCHES: dict[tuple[str, Constant], str] = {
    ("norm", "pre"): "",
    ("norm", "post"): " post-norm",
    ("norm", "none"): " without norm",
    ("residual", True): "",
    ("residual", False): " alone",
    ("asks", True): "",
    ("asks", False): " if there",
    ("sums", True): "₊",
    ("sums", False): "",
}
"""What a formula says of a constant that is not a number; the usual one goes without saying."""


def formula(tree: FusionTree) -> str:
    """Return the output as an expression of ``image`` and ``text``; what is used twice has a name."""
    return spelled([node.inputs for node in tree.nodes], lambda place, given: _written(tree.nodes[place], given))


def _written(node: FusionNode, given: list[str]) -> str:
    bare = {name: SWITCHES.get((name, value), str(value)) for name, value in node.constants.items()}
    words = OPS[node.op].formula.format(**dict(zip("abc", given, strict=False)), **bare)
    attention = node.attention
    if attention is None or attention.kind == "dot_product":
        return (
            words
            if attention is None or attention.projections.learned == ["W_q", "W_k", "W_v", "W_o"]
            else (f"{words}[{', '.join(attention.projections.learned) or 'no projections'}]")
        )
    return f"{words}[{attention.words if isinstance(attention, GraphAttention) else attention.kind}]"
