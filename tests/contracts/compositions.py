"""One small tree for each operator, so that every operator of composed fusions keeps the contract of fusions."""

from typing import Any

from chiasma.model.fusion.composed.expression import IMAGE, TEXT, Expression, expression, tree_of
from chiasma.model.fusion.composed.ops import OPS, POOLS

SEEN, READ = expression("mean", IMAGE), expression("mean", TEXT)


def tree_with(name: str) -> dict[str, Any]:
    """Return a tree that uses an operator and in which every token counts."""
    return tree_of(_with(name)).to_dict()


def _with(name: str) -> Expression:
    op = OPS[name]
    if name in POOLS and name != "mean":
        both = (expression("add", expression("mean", each), expression(name, each)) for each in (IMAGE, TEXT))
        return expression("concat", *both)
    if name == "attend":
        return expression(name, IMAGE, TEXT)
    if name == "join":
        return expression("linear", expression(name, IMAGE, TEXT))
    if name == "mark":
        return expression("join", expression(name, IMAGE), expression(name, TEXT))
    if name == "film":
        return expression("mean", expression(name, IMAGE, READ))
    if name == "scale":
        return expression("add", READ, expression(name, SEEN, expression("gate", READ)))
    if name == "gate":
        return expression("mix", SEEN, READ, expression(name, READ))
    if name in ("gate_of_both", "mix"):
        return expression("mix", SEEN, READ, expression("gate_of_both", SEEN, READ))
    if len(op.inputs) == 2:
        return expression(name, expression("linear", SEEN), expression("linear", READ))
    return expression("concat", SEEN, READ) if name == "mean" else expression(name, expression("concat", SEEN, READ))
