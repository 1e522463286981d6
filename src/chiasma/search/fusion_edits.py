"""Edits of composed fusions, by how much they change: an attribute, an operator, or the topology."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from chiasma.model.attention import AttentionSpec, DotProduct, resolve_attention
from chiasma.model.fusion.composed.expression import (
    IMAGE,
    TEXT,
    Expression,
    expression,
    parts_of,
    substituted,
)
from chiasma.model.fusion.composed.ops import OPS, POOLS, TOKENS, Kind, fits, output_kind
from chiasma.model.graph.attention import GraphAttention
from chiasma.search.attention_space import AttentionSpace
from chiasma.search.choices import other, pick
from chiasma.search.fusion_action import GATINGS, Intensity
from chiasma.search.fusion_families import looking, pooled

Edit = Callable[[Expression, np.random.Generator], "tuple[Expression, str] | None"]

ADOPTED = 0.3
NESTED = 0.3


def change_constant(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Give one attribute of one operator another value."""
    places = [(each, name) for each in operators(root) for name in OPS[each.op].constants]
    if not places:
        return None
    chosen, name = pick(places, rng)
    values = OPS[chosen.op].constants[name]
    before = chosen.constants.get(name, values[0])
    after = other(values, before, rng)
    changed = Expression(chosen.op, chosen.inputs, {**chosen.constants, name: after}, chosen.attention)
    return substituted(root, {chosen: changed}), f"{_spoken(chosen.op)} {name} {before} -> {after}"


def change_attention(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Let tokens look by an edited mechanism, or by one of the literature."""
    places = [each for each in operators(root) if each.op == "attend"]
    if not places:
        return None
    chosen = pick(places, rng)
    space = AttentionSpace("attention", crossed=chosen.inputs[0] is not chosen.inputs[1])
    now = as_graph(chosen.attention)
    adopted = rng.random() < ADOPTED
    found, edit = space.adopt(now, rng) if adopted else space.mutate(now, rng)
    attention: AttentionSpec = DotProduct(projections=found.projections) if found.graph == STANDARD.graph else found
    changed = Expression(chosen.op, chosen.inputs, chosen.constants, attention)
    return substituted(root, {chosen: changed}), f"attention: {edit}"


def change_operator(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Let another operator take the same inputs."""
    chosen = pick(operators(root), rng)
    given: list[Kind] = [each.kind for each in chosen.inputs]
    names = [name for name in OPS if name != chosen.op and _takes(name, given) and _gives(name, given) == chosen.kind]
    if not names:
        return None
    name = pick(names, rng)
    return substituted(root, {chosen: expression(name, *chosen.inputs)}), f"{_spoken(chosen.op)} -> {_spoken(name)}"


def insert_one(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Put an operator that takes one input behind some value."""
    chosen = pick([each for each in parts_of(root) if each.kind != "gate"], rng)
    names = [name for name, op in OPS.items() if op.output == "same" and _takes(name, [chosen.kind])]
    name = pick(names, rng)
    return _wrapped(root, chosen, expression(name, chosen), rng), f"{_spoken(name)} inserted"


def remove_one(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Take out an operator that has one input of the kind that it gives."""
    places = [each for each in operators(root) if len(each.inputs) == 1 and each.inputs[0].kind == each.kind]
    if not places:
        return None
    chosen = pick(places, rng)
    return substituted(root, {chosen: chosen.inputs[0]}), f"{_spoken(chosen.op)} removed"


def replace_subtree(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Put a fresh value in the place of one of the same kind."""
    chosen = pick(operators(root), rng)
    return substituted(root, {chosen: fresh_value(chosen.kind, rng)}), f"{_spoken(chosen.op)} with its inputs made anew"


def reconnect(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Let an operator take another value that is there already."""
    chosen = pick(operators(root), rng)
    place = int(rng.integers(len(chosen.inputs)))
    slot, first = OPS[chosen.op].inputs[place], chosen.inputs[0].kind
    before = [each for each in parts_of(root) if chosen not in parts_of(each)]
    fitting = [each for each in {*before, IMAGE, TEXT} if fits(each.kind, slot, first)]
    kept = [each for each in fitting if each is not chosen.inputs[place] and (place or each.kind == first)]
    if not kept:
        return None
    # A set has no order of its own, and edits are to be functions of their randomness.
    source = pick(sorted(kept, key=[*parts_of(root), IMAGE, TEXT].index), rng)
    inputs = (*chosen.inputs[:place], source, *chosen.inputs[place + 1 :])
    changed = Expression(chosen.op, inputs, chosen.constants, chosen.attention)
    return substituted(root, {chosen: changed}), f"{_spoken(chosen.op)} takes another input"


def combine(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Put an operator behind some value that meets it with another one."""
    chosen = pick([each for each in parts_of(root) if each.kind != "gate"], rng)
    names = [
        name
        for name, op in OPS.items()
        if len(op.inputs) > 1 and fits(chosen.kind, op.inputs[0]) and _gives(name, [chosen.kind]) == chosen.kind
    ]
    name = pick(names, rng)
    inputs: list[Expression] = [chosen]
    for slot in OPS[name].inputs[1:]:
        kinds: list[Kind] = [kind for kind in (*TOKENS, "vector", "gate") if fits(kind, slot, chosen.kind)]
        inputs.append(_partner(root, chosen, kinds, rng))
    return _wrapped(root, chosen, expression(name, *inputs), rng), f"{_spoken(name)} inserted"


def uncombine(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Take out an operator with several inputs; one of them goes on alone."""
    several = [each for each in operators(root) if len(each.inputs) > 1]
    places = [(user, each) for user in several for each in user.inputs if each.kind == user.kind]
    if not places:
        return None
    chosen, kept = pick(places, rng)
    return substituted(root, {chosen: kept}), f"{_spoken(chosen.op)} removed"


def turn_output(root: Expression, rng: np.random.Generator) -> tuple[Expression, str] | None:
    """Hand on every token in place of one vector of them, or the reverse."""
    if root.kind in TOKENS:
        return pooled(root, rng), "the tokens are pooled"
    return (root.inputs[0], "every token is handed on") if root.op in POOLS else None


EDITS: Mapping[Intensity, Sequence[tuple[float, Edit]]] = {
    "fine_tune": ((1.0, change_constant),),
    "refine": ((3.0, change_operator), (3.0, insert_one), (2.0, remove_one), (2.0, change_attention)),
    "topology": ((2.0, replace_subtree), (2.0, reconnect), (3.0, combine), (3.0, uncombine), (1.0, turn_output)),
}
"""Kinds of edits with how often each is tried, relative to the others of the same intensity."""

STANDARD = GraphAttention()


def operators(root: Expression) -> list[Expression]:
    """Return everything in an expression but the image and the text."""
    return [each for each in parts_of(root) if not each.is_input]


def fresh_value(kind: Kind, rng: np.random.Generator) -> Expression:
    """Return a small expression of one kind."""
    if kind == "vector":
        return pooled(fresh_value(pick(TOKENS, rng), rng), rng)
    if kind == "gate":
        seen, function = [fresh_value("vector", rng) for _ in range(2)], pick(GATINGS[1:], rng)
        if rng.random() < 0.5:
            return expression("gate", seen[0], function=function)
        return expression("gate_of_both", *seen, function=function)
    if kind == "joint":
        return expression("join", fresh_value("image", rng), fresh_value("text", rng))
    own, another = (IMAGE, TEXT) if kind == "image" else (TEXT, IMAGE)
    makers: tuple[Callable[[], Expression], ...] = (
        lambda: own,
        lambda: looking(own, another, rng),
        lambda: looking(own, own, rng),
        lambda: expression("feed_forward", own),
        lambda: expression("film", own, pooled(another, rng)),
    )
    return pick(makers, rng)()


def as_graph(attention: AttentionSpec | None) -> GraphAttention:
    """Return an attention as a graph; the usual one, or a plugin, is the standard graph."""
    if attention is None:
        return STANDARD
    settings = resolve_attention(attention)
    return settings if isinstance(settings, GraphAttention) else GraphAttention(projections=settings.projections)


def _wrapped(root: Expression, chosen: Expression, by: Expression, rng: np.random.Generator) -> Expression:
    """Return the expression with an operator behind a value: for one of its users, or for all of them."""
    users = [each for each in operators(root) if chosen in each.inputs and each not in parts_of(by)]
    if chosen is root or not users:
        return by if chosen is root else root
    user = pick(users, rng)
    inputs = tuple(by if each is chosen else each for each in user.inputs)
    return substituted(root, {user: Expression(user.op, inputs, user.constants, user.attention)})


def _partner(root: Expression, chosen: Expression, kinds: Sequence[Kind], rng: np.random.Generator) -> Expression:
    """Return what meets a value: as often as not something that is there already and does not depend on it."""
    known = [each for each in parts_of(root) if each.kind in kinds and chosen not in parts_of(each)]
    if known and rng.random() >= NESTED:
        return pick(known, rng)
    return fresh_value(pick(kinds, rng), rng)


def _takes(name: str, given: Sequence[Kind]) -> bool:
    slots = OPS[name].inputs
    return len(slots) == len(given) and all(fits(kind, slot, given[0]) for kind, slot in zip(given, slots, strict=True))


def _gives(name: str, given: list[Kind]) -> Kind:
    return output_kind(OPS[name], given)


def _spoken(name: str) -> str:
    return name.replace("_", " ")
