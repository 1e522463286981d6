"""Fresh fusions: one way of composing for each family, by depth, width and gating."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from chiasma.model.fusion import Composed
from chiasma.model.fusion.composed.expression import IMAGE, TEXT, Expression, expression
from chiasma.model.fusion.composed.ops import POOLS
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.known import KNOWN
from chiasma.search.choices import pick
from chiasma.search.fusion_action import Family, FusionAction

HEADS = (2, 4, 8)
KNOWN_ATTENTION = 0.2
CROSSABLE = tuple(GraphAttention(graph=each.graph) for each in KNOWN if not each.graph.self_only)
ALONE = tuple(GraphAttention(graph=each.graph) for each in KNOWN)


def fresh(action: FusionAction, rng: np.random.Generator) -> Expression:
    """Return a fusion of the action's family; what the action leaves open is drawn."""
    return _MAKERS[action.family](_Draw(action, rng))


def family_of(fusion: Composed) -> Family:
    """Return the family that a fusion belongs to, whoever made it; those that :func:`fresh` makes are of their own."""
    nodes, kinds = fusion.tree.nodes, fusion.tree.kinds
    ops = Counter(node.op for node in nodes)
    tokens = any(node.op == "feed_forward" and kinds[place] != "vector" for place, node in enumerate(nodes))
    if ops["attend"]:
        if ops["bilinear"] + ops["multiply"] + ops["film"]:
            return "hybrid"
        return "transformer" if tokens else "attention"
    if ops["bilinear"] + ops["multiply"]:
        return "bilinear"
    if ops["concat"]:
        return "mlp"
    return "gated" if ops["mix"] + ops["scale"] + ops["weigh"] + ops["film"] else "mlp"


def looking(queries: Expression, keys: Expression, rng: np.random.Generator, **constants: Any) -> Expression:
    """Return tokens that look at others, or at themselves, mostly by ordinary attention."""
    attention = None
    if rng.random() < KNOWN_ATTENTION:
        attention = pick(ALONE if queries is keys else CROSSABLE, rng)
    drawn = {"heads": pick(HEADS, rng), "norm": pick(("pre", "pre", "post"), rng)}
    return expression("attend", queries, keys, attention=attention, **(drawn | constants))


def pooled(tokens: Expression, rng: np.random.Generator) -> Expression:
    """Return one vector of some tokens, mostly their mean."""
    return expression("mean" if rng.random() < 0.6 else pick(POOLS, rng), tokens)


class _Draw:
    """An action with the randomness that fills in what it leaves open."""

    def __init__(self, action: FusionAction, rng: np.random.Generator) -> None:
        self.action = action
        self.rng = rng

    @property
    def sides(self) -> tuple[tuple[Expression, Expression], ...]:
        """Return who asks whom: image and text, the reverse, or both."""
        return pick((((IMAGE, TEXT),), ((TEXT, IMAGE),), ((IMAGE, TEXT), (TEXT, IMAGE))), self.rng)

    def means(self) -> tuple[Expression, Expression]:
        """Return one vector of the image and one of the text."""
        return pooled(IMAGE, self.rng), pooled(TEXT, self.rng)

    def wide(self, x: Expression, **constants: Any) -> Expression:
        """Return a value after a perceptron of the width that is asked for."""
        return expression("feed_forward", x, expansion=self.action.width, **constants)

    def gate(self, a: Expression, b: Expression) -> Expression | None:
        """Return a gate that sees two vectors, or None if there is to be none."""
        if self.action.gating == "none":
            return None
        return expression("gate_of_both", a, b, function=self.action.gating)

    def joined(self, a: Expression, b: Expression) -> Expression:
        """Return two vectors as one: side by side, or mixed by a gate."""
        gate = self.gate(a, b)
        if gate is None:
            return expression("concat", a, b, hidden=self.action.width)
        return self.wide(expression("mix", a, b, gate))

    def gated(self, x: Expression) -> Expression:
        """Return a vector, scaled by a gate that sees both modalities if there is to be one."""
        gate = self.gate(*self.means())
        return x if gate is None else expression("scale", x, gate)

    def answer(self, layer: Callable[[Expression], Expression], asking: Expression) -> Expression:
        """Return one vector of tokens after as many layers as are asked for."""
        return pooled(self.layered(layer, asking, times=self.action.depth), self.rng)

    def layered(self, layer: Callable[[Expression], Expression], x: Expression, *, times: int) -> Expression:
        """Return a value after several layers."""
        return reduce(lambda value, _: layer(value), range(times), x)


def _attention(draw: _Draw) -> Expression:
    answers = [draw.answer(lambda x, shown=shown: looking(x, shown, draw.rng), asking) for asking, shown in draw.sides]
    return draw.joined(*answers) if len(answers) == 2 else draw.wide(draw.gated(answers[0]))


def _gated(draw: _Draw) -> Expression:
    seen, read = (draw.layered(draw.wide, each, times=draw.action.depth) for each in draw.means())
    gate = draw.gate(seen, read)
    if gate is not None:
        if draw.rng.random() < 0.5:
            return expression("mix", seen, read, gate)
        return expression("scale", expression("add", seen, read), gate)
    if draw.rng.random() < 0.5:
        return expression("weigh", seen, read, by=pick(("attention", "numbers"), draw.rng))
    return expression("film", seen, read) if draw.rng.random() < 0.5 else expression("film", read, seen)


def _bilinear(draw: _Draw) -> Expression:
    seen, read = (expression("norm", each) if draw.rng.random() < 0.5 else each for each in draw.means())
    root = expression("root", expression("bilinear", seen, read, rank=2 * draw.action.width))
    product = root if draw.rng.random() < 0.5 else expression("norm", root)
    for place in range(1, draw.action.depth):
        again = expression("bilinear", expression("norm", product), (seen, read)[place % 2], rank=2 * draw.action.width)
        product = expression("add", product, again)
    return draw.gated(product)


def _mlp(draw: _Draw) -> Expression:
    seen, read = draw.means()
    if draw.action.gating != "none":
        gates = [expression("gate", each, function=draw.action.gating) for each in (read, seen)]
        seen, read = expression("scale", seen, gates[0]), expression("scale", read, gates[1])
    whole = expression("concat", seen, read, hidden=draw.action.width)
    if draw.rng.random() < 0.5:
        apart = expression("distance", expression("linear", seen), expression("linear", read))
        whole = expression("concat", whole, apart, hidden=draw.action.width)
    return draw.layered(draw.wide, whole, times=draw.action.depth - 1)


def _transformer(draw: _Draw) -> Expression:
    norm = pick(("pre", "pre", "post"), draw.rng)

    def block(x: Expression, shown: Expression | None = None) -> Expression:
        return draw.wide(looking(x, x if shown is None else shown, draw.rng, norm=norm), norm=norm)

    if draw.rng.random() < 0.5:
        joint = expression("join", expression("mark", IMAGE), expression("mark", TEXT))
        return draw.gated(draw.answer(block, joint))
    answers = [draw.answer(lambda x, shown=shown: block(x, shown), asking) for asking, shown in draw.sides]
    return draw.joined(*answers) if len(answers) == 2 else draw.gated(answers[0])


def _hybrid(draw: _Draw) -> Expression:
    asking, shown = pick(((IMAGE, TEXT), (TEXT, IMAGE)), draw.rng)
    answer = draw.answer(lambda x: looking(x, shown, draw.rng), asking)
    other = pooled(shown, draw.rng)
    products = (
        expression("bilinear", answer, other, rank=2 * draw.action.width),
        expression("multiply", answer, other),
        expression("film", answer, other),
    )
    return draw.joined(answer, pick(products, draw.rng))


_MAKERS: Mapping[Family, Callable[[_Draw], Expression]] = {
    "attention": _attention,
    "gated": _gated,
    "bilinear": _bilinear,
    "mlp": _mlp,
    "transformer": _transformer,
    "hybrid": _hybrid,
}
