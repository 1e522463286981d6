"""Differences that vanish as soon as a modality is absent, though what is there must still count."""

from chiasma.model.fusion.composed.node import FusionNode
from chiasma.model.fusion.composed.ops import OPS

FIRST_PASSES = ("film", "scale")
EITHER_PASSES = ("add", "mix", "weigh")
APART = ("difference", "distance")


def vanishing(nodes: tuple[FusionNode, ...]) -> str | None:
    """Return which operator of a canonical graph takes the difference of what can be one and the same value, or None.

    ``text - film(text by image)`` is zero in every row without an image: nothing is left of the text.
    """
    found: list[frozenset[str]] = []
    for place, node in enumerate(nodes):
        given = [found[source] if isinstance(source, int) else frozenset({source}) for source in node.inputs]
        if node.op in APART and given[0] & given[1]:
            return node.op
        found.append(_may_equal(place, node, given))
    return None


def _may_equal(place: int, node: FusionNode, given: list[frozenset[str]]) -> frozenset[str]:
    """Return names of all that a node's value equals, up to a constant, in rows where some of its inputs are absent."""
    op, own = OPS[node.op], frozenset({f"#{place}"})
    if node.op in EITHER_PASSES or (node.op == "multiply" and not node.constants["sums"]):
        return own | given[0] | given[1]
    looks = node.op == "attend" and bool(node.constants["residual"]) and node.constants["norm"] != "post"
    if node.op in FIRST_PASSES or looks:
        return own | given[0]
    if len(given) == 1 and not op.learns:
        return frozenset(f"{node.op}{dict(node.constants)}({each})" for each in given[0])
    return own
