"""The space of composed fusions: typed trees, for the fusion of a design."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.model.fusion import Composed
from chiasma.model.fusion.composed.behaviour import fusion_fingerprint
from chiasma.model.fusion.composed.expression import (
    Expression,
    expression_of,
    parts_of,
    substituted,
    tree_of,
)
from chiasma.model.fusion.composed.formula import formula
from chiasma.model.fusion.composed.known import KnownFusion, in_dim, known_fusions
from chiasma.model.fusion.composed.ops import OPS
from chiasma.model.tokens import with_open_encoders
from chiasma.search.choices import other, pick, words
from chiasma.search.fusion_action import (
    DEPTHS,
    FAMILIES,
    GATINGS,
    INTENSITIES,
    WIDTHS,
    FusionAction,
    Intensity,
)
from chiasma.search.fusion_edits import EDITS, operators
from chiasma.search.fusion_families import family_of, fresh
from chiasma.train.design import Design

SLOT = "model.fusion"
TRIES = 200
DROPOUTS = (0.0, 0.1, 0.2, 0.3)
CHANGE_DROPOUT = 0.15


class FusionSpace:
    """Samples, edits and crosses composed fusions; whatever it makes is well-typed and joins image and text.

    Attributes:
        refused: How many edits were thrown away, by reason; each was followed by another try.
    """

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()

    @cached_property
    def known(self) -> tuple[KnownFusion, ...]:
        """Return the fusions that are known by name."""
        return known_fusions()

    def adopt(self, rng: np.random.Generator) -> tuple[Composed, str]:
        """Return a known fusion, and which it is in words."""
        chosen = pick(self.known, rng)
        return chosen.fusion, chosen.words

    def sample(self, rng: np.random.Generator) -> Composed:
        """Return a fresh fusion of a family, depth, width and gating that are drawn evenly."""
        factors = {"family": pick(FAMILIES, rng), "depth": pick(DEPTHS, rng), "width": pick(WIDTHS, rng)}
        return self.fresh(FusionAction.from_dict({**factors, "gating": pick(GATINGS, rng)}), rng)[0]

    def fresh(self, action: FusionAction, rng: np.random.Generator) -> tuple[Composed, str]:
        """Return a fusion as the action asks for it, and the action in words; what it leaves open is drawn.

        Raises:
            ValueError: Nothing that was drawn makes sense.
        """
        dropout = pick(DROPOUTS, rng)
        drawn = (self._finished(fresh(action, rng), dropout) for _ in range(TRIES))
        made = next((each for each in drawn if each is not None), None)
        if made is None:
            raise ValueError(f"No {action.family} fusion of depth {action.depth} makes sense after {TRIES} tries.")
        gating = "" if action.gating == "none" else f", {action.gating} gates"
        return made, f"a fresh {action.family} fusion, depth {action.depth}, width {action.width}{gating}"

    def mutate(
        self, genome: Composed, rng: np.random.Generator, *, intensity: Intensity | None = None
    ) -> tuple[Composed, str]:
        """Return the fusion with one edit, and the edit in words.

        Args:
            genome: What to edit.
            rng: Randomness.
            intensity: How much the edit changes; None draws it. Where no edit of it makes sense, one of the next kind.

        Raises:
            ValueError: No edit makes sense.
        """
        first = pick(INTENSITIES, rng) if intensity is None else intensity
        for each in dict.fromkeys((first, "refine", "topology")):
            found = self._edited(genome, each, rng)
            if found is not None:
                return found
        raise ValueError(f"No edit of {formula(genome.tree)} makes sense after {TRIES} tries.")

    def crossover(self, first: Composed, second: Composed, rng: np.random.Generator) -> Composed:
        """Return a child of two fusions; see :meth:`cross`."""
        return self.cross(first, second, rng)[0]

    def cross(self, first: Composed, second: Composed, rng: np.random.Generator) -> tuple[Composed, str]:
        """Return the first with one subtree replaced by one of the second of the same kind, and this in words.

        Dropout is that of one of the two. Where nothing fits, an edit of the first.
        """
        root, donor = expression_of(first.tree), expression_of(second.tree)
        dropout = pick((first.dropout, second.dropout), rng)
        for _ in range(TRIES):
            target = pick(operators(root), rng)
            fitting = [each for each in operators(donor) if each.kind == target.kind]
            if not fitting:
                continue
            given = pick(fitting, rng)
            crossed = self._finished(substituted(root, {target: given}), dropout)
            if crossed is not None and crossed not in (first, second):
                spoken = given.op.replace("_", " ")
                return crossed, f"a {target.kind} replaced by the {spoken} of another fusion"
        genome, edit = self.mutate(first, rng)
        return genome, f"nothing of the second parent fits; {edit}"

    def follow(
        self, action: FusionAction, parents: Sequence[Composed], rng: np.random.Generator
    ) -> tuple[Composed, str]:
        """Return what an action asks for, and how it was made in words.

        Args:
            action: What to do; see :class:`FusionAction`.
            parents: What is on offer, the best first; without any, and for a cross without two, something fresh.
            rng: What the action leaves open, such as the mate: one of the action's family if there is any.
        """
        needed = {"fresh": 0, "mutate": 1, "crossover": 2}[action.operation]
        if needed == 0 or len(parents) < needed:
            return self.fresh(action, rng)
        place = min(action.parent, len(parents) - 1)
        if action.operation == "mutate":
            return self.mutate(parents[place], rng, intensity=action.intensity)
        mates = [each for number, each in enumerate(parents) if number != place]
        related = [each for each in mates if family_of(each) == action.family]
        return self.cross(parents[place], pick(related or mates, rng), rng)

    def validate(self, genome: Composed) -> str | None:
        """Return None: a tree that could not be built is no value."""
        del genome
        return None

    def lower(self, genome: Composed, incumbent: Design) -> Design:
        """Return the incumbent with this fusion; where it looks at single tokens, encoders hand on every one.

        Numbers of heads that do not divide the incumbent's width become the largest known one below that does.
        """
        fitting = _with_fitting_heads(genome, incumbent.model.dim)
        lowered = replace_at(incumbent, SLOT, fitting)
        if not fitting.every_token:
            return lowered
        return lowered.model_copy(update={"model": with_open_encoders(lowered.model)[0]})

    def at(self, design: Design) -> Composed | None:
        """Return the fusion of a design as a tree; None where it has none, or one that no tree computes."""
        return in_dim(design.model.fusion, design.model.dim)

    def behaviour(self, design: Design) -> str:
        """Return a hash that is equal for designs that differ only in how their fusion is written."""
        fusion = self.at(design)
        if fusion is None:
            return design.content_hash()
        rest = replace_at(design, SLOT, Composed()).content_hash()
        return f"{rest} {fusion_fingerprint(fusion)} {fusion.dropout:g}"

    def _edited(self, genome: Composed, intensity: Intensity, rng: np.random.Generator) -> tuple[Composed, str] | None:
        if intensity == "fine_tune" and genome.drops and rng.random() < CHANGE_DROPOUT:
            dropout = other(DROPOUTS, genome.dropout, rng)
            changed = Composed(tree=genome.tree, dropout=dropout)
            return changed, f"dropout {words(genome.dropout)} -> {words(dropout)}"
        weights = np.array([weight for weight, _ in EDITS[intensity]])
        root = expression_of(genome.tree)
        for _ in range(TRIES):
            found = EDITS[intensity][int(rng.choice(len(weights), p=weights / weights.sum()))][1](root, rng)
            edited = None if found is None else self._finished(found[0], genome.dropout)
            if found is not None and edited is not None and edited != genome:
                return edited, found[1]
        return None

    def _finished(self, root: Expression, dropout: float) -> Composed | None:
        """Return the fusion, or None where it makes no sense, and count the reason."""
        if root.is_input:
            return None
        try:
            return Composed(tree=tree_of(root), dropout=dropout)
        except ConfigError as error:
            self.refused[_without_numbers(str(error))] += 1
            return None


def _with_fitting_heads(genome: Composed, dim: int) -> Composed:
    root = expression_of(genome.tree)
    changes: dict[Expression, Expression] = {}
    for each in parts_of(root):
        inputs = tuple(changes.get(inner, inner) for inner in each.inputs)
        constants = each.constants
        if each.op == "attend":
            below = [heads for heads in OPS["attend"].constants["heads"] if int(heads) <= int(constants["heads"])]
            constants = {**constants, "heads": max(int(heads) for heads in below if dim % int(heads) == 0)}
        if inputs != each.inputs or constants != each.constants:
            changes[each] = Expression(each.op, inputs, constants, each.attention)
    return Composed(tree=tree_of(changes[root]), dropout=genome.dropout) if root in changes else genome


def _without_numbers(reason: str) -> str:
    """Return a reason as it is counted: the same for every tree."""
    return reason.partition(": ")[2].partition(", but")[0] or reason
