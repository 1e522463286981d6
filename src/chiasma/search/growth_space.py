"""Edits of how a design grows: a trunk whose members come and go, its first members, and the rules."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from chiasma.core.errors import ChiasmaError
from chiasma.core.spec import Spec, replace_at
from chiasma.model.mechanisms import mechanisms_of
from chiasma.model.multimodal import ModelSpec
from chiasma.model.tokens import fused_tokens, members_over_one_token, with_every_token
from chiasma.model.trunk import Place, PopulationSpec
from chiasma.model.trunk.members import ConvolutionMemberSpec, PerceptronSpec, TransformerMemberSpec
from chiasma.search.choices import FUSION_OF_TOKENS, other, pick, words
from chiasma.search.design_space import DesignSpace, growing
from chiasma.train.design import Design, GrowthSpec

FIRST_MEMBERS = (1, 2, 3)
RULES: Mapping[str, Sequence[Any]] = {
    "largest": (3, 4, 6, 8),
    "probation": (1, 2, 3),
    "longevity": (3, 4, 6),
    "exploit": (0.25, 0.5, 0.75, 1.0),
    "worth": (0.0, 0.01, 0.03),
    "last_birth": (0.4, 0.6, 0.7, 0.8),
    "lessons": (False, True),
}
TRUNK: Mapping[str, Sequence[Any]] = {
    "edges": (True, False),
    "routing": ("softmax", "entmax", "sparsemax"),
    "balance": (0.0, 0.01, 0.03),
}
OFTEN, SELDOM = 3.0, 1.0
TRIES = 20


class GrowthSpace:
    """Gives designs a trunk that grows, and edits trunk and rules; everything else stays as it is.

    A trunk that is planted is handed every token: pooling before it is taken out, and a fusion that makes one token is
    replaced. Where one token remains, as of a bag of words alone, its first members are perceptrons.

    Args:
        designs: Where a whole design comes from while there is none to edit.
    """

    def __init__(self, designs: DesignSpace) -> None:
        self.designs = designs

    def sample(self, rng: np.random.Generator) -> Design:
        """Return a random design with a trunk that grows."""
        return self.mutate(self.designs.sample(rng), rng)[0]

    def mutate(self, genome: Design, rng: np.random.Generator) -> tuple[Design, str]:
        """Return the design with one thing about its growth changed, and the edit in words."""
        if genome.model.trunk is None:
            return self._plant(genome, rng)
        if members_over_one_token(genome.model, self.designs.signature):
            opened, note = self._opened(genome, rng)
            if note:
                return opened, f"growth: one token -> every token{note}"
        edits = [(OFTEN, self._edit_rule), (OFTEN, self._edit_trunk), (OFTEN, self._edit_members)]
        if genome.training.growth is None:
            edits = [(OFTEN, self._let_grow), *edits[1:]]
        edits.append((SELDOM, self._fell))
        weights = np.array([weight for weight, _ in edits])
        return edits[int(rng.choice(len(edits), p=weights / weights.sum()))][1](genome, rng)

    def crossover(self, first: Design, second: Design, rng: np.random.Generator) -> Design:
        """Return the first design with trunk and growth of the second; the first itself where these do not fit it."""
        if second.model.trunk is None:
            return first
        opened, _ = self._opened(first, rng)
        try:
            crossed = growing(_with_trunk(opened, second.model.trunk), second.training.growth)
        except (ChiasmaError, ValidationError):
            return first
        return first if members_over_one_token(crossed.model, self.designs.signature) else crossed

    def validate(self, genome: Design) -> str | None:
        """Return why the design cannot be built for this data, or None."""
        return self.designs.validate(genome)

    def lower(self, genome: Design, incumbent: Design) -> Design:
        """Return the genome itself: it is a whole design already."""
        del incumbent
        return genome

    def _plant(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        opened, note = self._opened(design, rng)
        members: dict[str, Place] = {}
        for _ in range(pick(FIRST_MEMBERS, rng)):
            self._join(members, opened, rng)
        rules = _drawn_rules(rng)
        spec = PopulationSpec(members=members, heads=_heads(opened), routing=pick(TRUNK["routing"], rng))
        grown = growing(_with_trunk(opened, spec), rules)
        return grown, f"growth: none -> {_kinds(members)} that grow{note}"

    def _opened(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        """Return the design with several tokens before its trunk, and what that took; itself where nothing helps."""
        model, opened = with_every_token(design.model)
        if self._tokens(model) > 1:
            return Design(model=model, training=design.training), _opened_words(opened)
        for _ in range(TRIES if design.model.fusion is not None else 0):
            fusion = FUSION_OF_TOKENS.sample(rng)
            try:
                other_model = replace_at(model, "fusion", fusion)
            except (ChiasmaError, ValidationError):
                continue
            if self._tokens(other_model) > 1:
                change = f"fusion {words(design.model.fusion)} -> {words(fusion)}"
                rest = [name for name in opened if name != "fusion"]
                return Design(model=other_model, training=design.training), _opened_words(rest, change)
        return design, ""

    def _tokens(self, model: ModelSpec) -> int:
        return fused_tokens(model, self.designs.signature)

    def _join(self, members: dict[str, Place], design: Design, rng: np.random.Generator) -> None:
        """Add a member of a kind at random, under the next free name; over one token a perceptron."""
        attention = pick(mechanisms_of(design.model), rng)
        looking = TransformerMemberSpec(heads=_heads(design), attention=attention)
        kinds = [PerceptronSpec(), looking, ConvolutionMemberSpec()]
        if self._tokens(design.model) == 1:
            kinds = [kind for kind in kinds if not kind.mixes_tokens]
        member = pick(kinds, rng)
        number = next(n for n in range(1, len(members) + 2) if f"{member.kind}_{n}" not in members)
        members[f"{member.kind}_{number}"] = Place(member=member)

    def _fell(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        del rng
        assert design.model.trunk is not None
        return _with_trunk(growing(design, None), None), f"growth: {_kinds(design.model.trunk.members)} -> none"

    def _let_grow(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        return growing(design, _drawn_rules(rng)), "growth: fixed -> guided"

    def _edit_rule(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        rules = design.training.growth
        assert rules is not None
        change, edit = _another(rules, RULES, rng)
        return growing(design, _rules(rules, change)), edit

    def _edit_trunk(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        trunk = design.model.trunk
        assert trunk is not None
        change, edit = _another(trunk, TRUNK, rng)
        return _with_trunk(design, trunk.model_copy(update=change)), edit

    def _edit_members(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        """Return the design with one first member more, or one fewer."""
        trunk = design.model.trunk
        assert trunk is not None
        members = dict(trunk.members)
        if len(members) > 1 and rng.random() < 0.5:
            del members[pick(sorted(members), rng)]
        else:
            self._join(members, design, rng)
        edited = _with_trunk(design, trunk.model_copy(update={"members": members}))
        if edited.training.growth is not None and len(members) > edited.training.growth.largest:
            edited = replace_at(edited, "training.growth.largest", len(members))
        return edited, f"growth: {_kinds(trunk.members)} -> {_kinds(members)}"


def _with_trunk(design: Design, trunk: PopulationSpec | None) -> Design:
    """Return the design with this trunk.

    Raises:
        ValidationError: Heads of the trunk do not divide the model's width.
    """
    model = {**design.model.to_dict(), "trunk": None if trunk is None else trunk.to_dict()}
    return Design(model=ModelSpec.from_dict(model), training=design.training)


def _heads(design: Design) -> int:
    return next(heads for heads in (4, 2, 1) if design.model.dim % heads == 0)


def _drawn_rules(rng: np.random.Generator) -> GrowthSpec:
    return _rules(GrowthSpec(), {name: pick(values, rng) for name, values in RULES.items()})


def _another(spec: Spec, table: Mapping[str, Sequence[Any]], rng: np.random.Generator) -> tuple[dict[str, Any], str]:
    """Return another value for one field of a table, and the change in words."""
    name = pick(list(table), rng)
    now = getattr(spec, name)
    after = other(table[name], now, rng)
    return {name: after}, f"growth: {name.replace('_', ' ')} {words(now)} -> {words(after)}"


def _rules(rules: GrowthSpec, changes: Mapping[str, Any]) -> GrowthSpec:
    """Return the rules with some changed; a probation is never longer than a newcomer may stay."""
    changed = {**rules.to_dict(), **changes}
    changed["longevity"] = max(changed["longevity"], changed["probation"])
    changed["smallest"] = min(changed["smallest"], changed["largest"])
    return GrowthSpec.from_dict(changed)


def _opened_words(opened: Sequence[str], change: str = "") -> str:
    """Return what was done so that a trunk is handed every token: `` (fusion concat -> film, all tokens of text)``."""
    told = [change] if change else []
    told += [f"all tokens of {' and '.join(opened)}"] if opened else []
    return f" ({', '.join(told)})" if told else ""


def _kinds(members: Mapping[str, Place]) -> str:
    return ", ".join(sorted(members))
