"""The space of attention mechanisms: typed graphs and four projection flags, for one place in a design."""

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import numpy as np

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, replace_at, value_at
from chiasma.model.attention import DotProduct
from chiasma.model.blocks import TransformerSpec
from chiasma.model.fusion import CrossedSpec
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.behaviour import fingerprint
from chiasma.model.graph.formula import formula
from chiasma.model.graph.graph import AttentionGraph, fits
from chiasma.model.graph.known import KNOWN, Known
from chiasma.model.graph.node import Source
from chiasma.model.graph.ops import INPUTS, OPS, Kind, Slot
from chiasma.model.kernel import Projections
from chiasma.model.trunk.members import TransformerMemberSpec
from chiasma.search.attention_draft import Draft
from chiasma.search.choices import other, pick
from chiasma.train.design import Design

STANDARD = GraphAttention()
TRIES = 200
FIRST_EDITS = 4
FLAGS = ("q", "k", "v", "o")
SIDES = ("query", "key", "tokens")

S = TypeVar("S")
Edit = Callable[[Draft, np.random.Generator], str | None]


class AttentionSpace:
    """Samples, edits and crosses attention mechanisms; whatever it makes is well-typed and makes sense in its slot.

    Args:
        slot: Where in a design the attention stands, such as ``model.encoders.image.attention``.
        crossed: The slot's queries and keys are different sequences, so that a graph that turns one into the other is
            refused.

    Attributes:
        refused: How many edits were thrown away, by reason; each was followed by another try.
    """

    def __init__(self, slot: str, *, crossed: bool = False) -> None:
        self.slot = slot
        self.crossed = crossed
        self.refused: Counter[str] = Counter()
        self._edits: tuple[tuple[float, Edit], ...] = (
            (3.0, self._change_operator),
            (2.0, self._change_connection),
            (3.0, self._insert),
            (2.0, self._remove),
            (1.0, self._change_constant),
        )

    @cached_property
    def known(self) -> tuple[Known, ...]:
        """Return the mechanisms of the literature that can stand in this slot."""
        return tuple(each for each in KNOWN if self.validate(GraphAttention(graph=each.graph)) is None)

    def adopt(self, genome: GraphAttention, rng: np.random.Generator) -> tuple[GraphAttention, str]:
        """Return a mechanism of the literature with this one's projections, and which it is in words."""
        chosen = pick(self.known, rng)
        return GraphAttention(projections=_meant(genome), graph=chosen.graph), chosen.words

    def sample(self, rng: np.random.Generator) -> GraphAttention:
        """Return standard attention after one to four random edits; a draw of its own decides on each projection."""
        genome = self.with_projections(GraphAttention(), keep=0.75, rng=rng)
        for _ in range(1 + int(rng.integers(FIRST_EDITS))):
            genome, _ = self.mutate(genome, rng)
        return genome

    def with_projections(self, genome: GraphAttention, *, keep: float, rng: np.random.Generator) -> GraphAttention:
        """Return the attention with each projection learned with this probability."""
        flags = {name: bool(rng.random() < keep) for name in FLAGS}
        return GraphAttention(projections=Projections(**flags), graph=genome.graph)

    def mutate(self, genome: GraphAttention, rng: np.random.Generator) -> tuple[GraphAttention, str]:
        """Return the attention with one edit of its graph or of one projection flag, and the edit in words.

        Raises:
            ValueError: No edit makes sense; the last reason is given.
        """
        if rng.random() < 0.2:
            return self._flip(genome, rng)
        weights = np.array([weight for weight, _ in self._edits])
        for _ in range(TRIES):
            draft = Draft(genome.graph)
            words = self._edits[int(rng.choice(len(self._edits), p=weights / weights.sum()))][1](draft, rng)
            edited = None if words is None else self._finished(draft, _meant(genome))
            if words is not None and edited is not None and edited != genome:
                return edited, words
        raise ValueError(f"No edit of {formula(genome.graph)} makes sense after {TRIES} tries.")

    def crossover(self, first: GraphAttention, second: GraphAttention, rng: np.random.Generator) -> GraphAttention:
        """Return a child of two mechanisms; see :meth:`cross`."""
        return self.cross(first, second, rng)[0]

    def cross(
        self, first: GraphAttention, second: GraphAttention, rng: np.random.Generator
    ) -> tuple[GraphAttention, str]:
        """Return the first with one subgraph replaced by a subgraph of the second of the same kind, and this in words.

        Each projection flag is drawn from one of the two. Where nothing fits, an edit of the first.
        """
        both = (_meant(first), _meant(second))
        chosen = Projections(**{name: getattr(both[int(rng.integers(2))], name) for name in FLAGS})
        for _ in range(TRIES):
            draft, donor = Draft(first.graph), Draft(second.graph)
            target = int(rng.integers(len(draft.nodes)))
            slot = draft.kind(target)
            fitting = [number for number in range(len(donor.nodes)) if fits(donor.kind(number), slot)]
            if not fitting:
                continue
            draft.redirect(target, draft.graft(donor, pick(fitting, rng)))
            crossed = self._finished(draft, chosen)
            if crossed is not None and crossed not in (first, second):
                return crossed, "a cross of two mechanisms"
        genome, edit = self.mutate(first, rng)
        return genome, f"nothing of the second parent fits; {edit}"

    def validate(self, genome: GraphAttention) -> str | None:
        """Return why the attention cannot stand in this slot, or None."""
        if self.crossed and genome.self_only:
            return "it feeds keys where queries go, but the slot's queries and keys are different sequences"
        return None

    def lower(self, genome: GraphAttention, incumbent: Design) -> Design:
        """Return the incumbent with this attention in the slot; the standard graph is standard attention."""
        if genome.graph == AttentionGraph():
            return replace_at(incumbent, self.slot, DotProduct(projections=genome.projections))
        return replace_at(incumbent, self.slot, genome)

    def at(self, design: Design) -> GraphAttention:
        """Return the attention that a design has in this slot; the usual one, or a plugin, is the standard graph."""
        found = value_at(design, self.slot)
        if isinstance(found, GraphAttention):
            return found
        return GraphAttention(projections=getattr(found, "projections", Projections()))

    def behaviour(self, design: Design) -> str:
        """Return a hash that is equal for designs that differ only in how the attention of this slot is written."""
        rest = replace_at(design, self.slot, STANDARD).content_hash()
        return f"{rest} {fingerprint(self.at(design), crossed=self.crossed)}"

    def _finished(self, draft: Draft, projections: Projections) -> GraphAttention | None:
        """Return the draft's graph with these projections, or None where that makes no sense, and count the reason."""
        try:
            edited = GraphAttention(projections=projections, graph=draft.finish())
        except ConfigError as error:
            self.refused[_without_numbers(str(error))] += 1
            return None
        reason = self.validate(edited)
        if reason is not None:
            self.refused[reason] += 1
        return edited if reason is None else None

    def _flip(self, genome: GraphAttention, rng: np.random.Generator) -> tuple[GraphAttention, str]:
        flags = [name for name in FLAGS if name == "o" or name in genome.graph.used]
        name = pick(flags, rng)
        on = not getattr(genome.projections, name)
        projections = Projections.from_dict(genome.projections.to_dict() | {name: on})
        words = f"W_{name} {'learned' if on else 'left out'}"
        return GraphAttention(projections=projections, graph=genome.graph), words

    def _change_operator(self, draft: Draft, rng: np.random.Generator) -> str | None:
        number = pick(draft.order(draft.output), rng)
        node = draft.nodes[number]
        before, slot = node.op, draft.kind(number)
        candidates = [name for name, op in OPS.items() if name != before and _gives(op.output, slot)]
        if not candidates:
            return None
        name = pick(candidates, rng)
        kept = list(node.inputs)
        inputs: list[Source] = []
        for wanted in OPS[name].inputs:
            fitting = next((source for source in kept if fits(draft.kind(source), wanted)), None)
            if fitting is not None:
                kept.remove(fitting)
            if fitting is None:
                of = inputs[-1] if inputs else None
                fitting = self._partner(draft, wanted, rng, of=of, without=number)
            inputs.append(fitting)
        node.op, node.inputs, node.constants = name, inputs, {}
        return f"{before} -> {name}"

    def _change_connection(self, draft: Draft, rng: np.random.Generator) -> str | None:
        edges = _edges(draft)
        if not edges:
            return None
        number, place = pick(edges, rng)
        node = draft.nodes[number]
        wanted = OPS[node.op].inputs[place]
        sources = [each for each in draft.sources(wanted, without=number) if each != node.inputs[place]]
        if not sources:
            return None
        node.inputs[place] = pick(sources, rng)
        return f"{node.op} takes another input"

    def _insert(self, draft: Draft, rng: np.random.Generator) -> str | None:
        """Put an operator on one edge, or behind the output."""
        edges = [*_edges(draft), None]
        edge = pick(edges, rng)
        source = draft.output if edge is None else draft.nodes[edge[0]].inputs[edge[1]]
        kind = draft.kind(source)
        wanted = "query" if edge is None else OPS[draft.nodes[edge[0]].op].inputs[edge[1]]
        fitting = [
            (name, place)
            for name, op in OPS.items()
            for place, slot in enumerate(op.inputs)
            if fits(kind, slot) and _gives(op.output, wanted)
        ]
        if not fitting:
            return None
        name, place = pick(fitting, rng)
        without = None if edge is None else edge[0]
        inputs = [
            source if index == place else self._partner(draft, slot, rng, of=source, without=without)
            for index, slot in enumerate(OPS[name].inputs)
        ]
        added = draft.add(name, inputs)
        if edge is None:
            draft.output = added
        else:
            draft.nodes[edge[0]].inputs[edge[1]] = added
        return f"{name} inserted"

    def _remove(self, draft: Draft, rng: np.random.Generator) -> str | None:
        """Let the users of a node use one of its inputs instead."""
        number = pick(draft.order(draft.output), rng)
        node, kind = draft.nodes[number], draft.kind(number)
        inputs = [source for source in node.inputs if _gives(draft.kind(source), kind)]
        if number == draft.output:
            inputs = [source for source in inputs if isinstance(source, int)]
        if not inputs:
            return None
        draft.redirect(number, pick(inputs, rng))
        return f"{node.op} removed"

    def _change_constant(self, draft: Draft, rng: np.random.Generator) -> str | None:
        places = [(n, name) for n in draft.order(draft.output) for name in OPS[draft.nodes[n].op].constants]
        if not places:
            return None
        number, name = pick(places, rng)
        node = draft.nodes[number]
        values = OPS[node.op].constants[name]
        before = node.constants.get(name, values[0])
        node.constants[name] = other(values, before, rng)
        return f"{node.op} {name} {before} -> {node.constants[name]}"

    def _partner(
        self, draft: Draft, slot: Slot, rng: np.random.Generator, *, of: Source | None, without: int | None
    ) -> Source:
        """Return what an inserted operator takes beside the edge's own source: something new as often as not."""
        known = [each for each in self._sources(draft, slot, without=without) if each != of]
        return self._fresh(draft, slot, rng) if not known or rng.random() < 0.5 else pick(known, rng)

    def _fresh(self, draft: Draft, slot: Slot, rng: np.random.Generator) -> Source:
        """Return something that fits a slot and is computed from queries, keys and values alone."""
        if slot == "weight":
            return draft.add("softmax", [self._fresh(draft, "score", rng)])
        output = "score" if slot == "score" else "tokens"
        makers = [name for name, op in OPS.items() if op.output == output and set(op.inputs) <= set(SIDES)]
        if slot != "score" and rng.random() < 0.5:
            return self._given(slot, rng)
        name = pick(makers, rng)
        return draft.add(name, [self._given(slot if each == "tokens" else each, rng) for each in OPS[name].inputs])

    def _given(self, slot: Slot, rng: np.random.Generator) -> Source:
        """Return queries, keys or values, whatever fits a slot."""
        fitting = [name for name, kind in INPUTS.items() if fits(kind, slot)]
        return pick(self._preferred(slot, fitting, INPUTS.__getitem__), rng)

    def _sources(self, draft: Draft, slot: Slot, *, without: int | None) -> list[Source]:
        return self._preferred(slot, draft.sources(slot, without=without), draft.kind)

    def _preferred(self, slot: Slot, sources: list[S], kind: Callable[[S], Kind]) -> list[S]:
        """Return the sources of a slot's own side where the graph is crossed and there are any."""
        own = [source for source in sources if kind(source) == slot]
        return own if self.crossed and own else sources


def attention_slots(design: Design) -> dict[str, bool]:
    """Return the places of a design where attention stands, each with whether it is crossed there."""
    model = design.model
    parts: dict[str, Spec] = {f"model.encoders.{name}": spec for name, spec in model.encoders.items()}
    if model.fusion is not None:
        parts["model.fusion"] = model.fusion
    if model.trunk is not None:
        parts |= {f"model.trunk.members.{name}.member": place.member for name, place in model.trunk.members.items()}
    return {
        f"{path}.attention": isinstance(part, CrossedSpec)
        for path, part in parts.items()
        if isinstance(part, TransformerSpec | TransformerMemberSpec)
    }


def short_slot(path: str) -> str:
    """Return how a user names a slot: ``image.attention`` for ``model.encoders.image.attention``."""
    return path.removeprefix("model.").removeprefix("encoders.")


def slot_named(name: str) -> str:
    """Return the dotted path of a slot that a user names; the inverse of :func:`short_slot`."""
    return f"model.{name}" if name.partition(".")[0] in ("fusion", "trunk") else f"model.encoders.{name}"


def _meant(genome: GraphAttention) -> Projections:
    """Return a mechanism's projections; those of inputs that it does not use, so that nobody left them out, are on."""
    flags = {
        name: (name != "o" and name not in genome.graph.used) or getattr(genome.projections, name) for name in FLAGS
    }
    return Projections(**flags)


def _edges(draft: Draft) -> list[tuple[int, int]]:
    return [(number, place) for number in draft.order(draft.output) for place in range(len(draft.nodes[number].inputs))]


def _gives(output: str, slot: str) -> bool:
    """Return whether something of one kind, or tokens of either side, may stand where a slot is."""
    tokens = ("query", "key", "tokens")
    return slot in tokens if output in tokens else output == slot


def _without_numbers(reason: str) -> str:
    """Return a reason as it is counted: the same for every graph."""
    return reason.partition(": ")[2].partition(", but")[0] or reason
