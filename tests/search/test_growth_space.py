"""Edits of how a design grows: they build, they are told in words, and they leave everything else alone."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signatures import SIGNATURES

from chiasma.core.outcome import Scored
from chiasma.core.spec import replace_at
from chiasma.model.attention import DotProduct, Mean
from chiasma.model.encoders import Convolution, NGram
from chiasma.model.fusion import Composed, Concat, CrossAttention, FiLM, Multiplicative
from chiasma.model.multimodal import ModelSpec
from chiasma.model.tokens import fused_tokens, members_over_one_token, starves
from chiasma.model.trunk import PopulationSpec
from chiasma.model.trunk.members import TransformerMemberSpec
from chiasma.model.trunk.population import Place
from chiasma.search.archive import SharedArchive
from chiasma.search.attention_space import attention_slots, short_slot, slot_named
from chiasma.search.design_space import REVIEWS, DesignSpace
from chiasma.search.growth_space import GrowthSpace
from chiasma.search.local_search import LocalSearch
from chiasma.search.nsga2 import NSGA2
from chiasma.search.protocols import Candidate, Evaluation
from chiasma.train.design import Design

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(SIGNATURES))
few = settings(max_examples=40, deadline=None)


def spaces(name: str) -> tuple[DesignSpace, GrowthSpace]:
    designs = DesignSpace(SIGNATURES[name], train_rows=1000)
    return designs, GrowthSpace(designs)


def rest(design: Design) -> tuple:
    """Return all but growth and what a trunk needs to be handed every token: open encoders and a fusion of tokens."""
    model, training = design.model, design.training
    encoders = {name: {**encoder.to_dict(), "pool": None} for name, encoder in model.encoders.items()}
    return model.dim, encoders, model.head, training.optim, training.loop.epochs


@few
@given(NAMES, SEEDS)
def test_every_edit_builds_changes_growth_alone_and_is_told_in_words(name: str, seed: int):
    designs, space = spaces(name)
    rng = np.random.default_rng(seed)
    design = designs.sample(rng)
    for _ in range(6):
        edited, words = space.mutate(design, rng)
        assert edited != design
        assert rest(edited) == rest(design)
        assert (edited.model.fusion == design.model.fusion) or "none -> " in words
        assert re.fullmatch(r"growth: \S.* -> \S.*", words), words
        assert space.validate(edited) is None
        design = Design.from_json(edited.to_json())
        assert design == edited
    design.model.build(SIGNATURES[name])


@few
@given(NAMES, SEEDS)
def test_what_grows_is_reviewed_often_enough_on_rows_that_it_does_not_learn_from(name: str, seed: int):
    _, space = spaces(name)
    design = space.sample(np.random.default_rng(seed))
    assert design.training.growth is not None
    assert not design.training.loop.train_on_steer
    assert design.training.loop.evaluations >= REVIEWS


@few
@given(NAMES, SEEDS)
def test_edits_and_crosses_of_other_parts_keep_a_trunk_and_its_growth(name: str, seed: int):
    designs, space = spaces(name)
    rng = np.random.default_rng(seed)
    grown = space.sample(rng)
    edited, words = designs.mutate(grown, rng)
    assert edited.training.growth == grown.training.growth, words
    assert edited.model.trunk == grown.model.trunk, words
    assert members_over_one_token(edited.model, SIGNATURES[name]) == [], words
    child = designs.crossover(grown, designs.sample(rng), rng)
    assert members_over_one_token(child.model, SIGNATURES[name]) == []
    assert (child.model.trunk, child.training.growth) == (grown.model.trunk, grown.training.growth)
    assert designs.crossover(designs.sample(rng), grown, rng).training.growth is None
    child.model.build(SIGNATURES[name])


@few
@given(NAMES, SEEDS)
def test_members_that_look_at_tokens_are_handed_several_through_edits_and_crosses(name: str, seed: int):
    designs, space = spaces(name)
    rng = np.random.default_rng(seed)
    design = space.sample(rng)
    for _ in range(5):
        assert members_over_one_token(design.model, SIGNATURES[name]) == []
        near = designs if design.model.trunk is not None and rng.random() < 0.6 else space
        design, _ = near.mutate(design, rng)
    planted = space.crossover(designs.sample(rng), space.sample(rng), rng)
    assert members_over_one_token(planted.model, SIGNATURES[name]) == []


def test_a_planted_trunk_of_two_modalities_is_always_handed_several_tokens():
    name = "image+text classification"
    _, space = spaces(name)
    planted = [space.sample(np.random.default_rng(seed)) for seed in range(200)]
    assert min(fused_tokens(design.model, SIGNATURES[name]) for design in planted) > 1
    kinds = {place.member.kind for design in planted for place in design.model.trunk.members.values()}
    assert kinds == {"perceptron", "transformer", "residual_convolution"}


def test_over_the_one_token_of_a_bag_of_words_the_first_members_are_perceptrons():
    designs, space = spaces("text classification")
    rng = np.random.default_rng(0)
    bag = replace_at(designs.sample(rng), "model.encoders.text", NGram())
    planted = [space.mutate(bag, rng)[0].model for _ in range(20)]
    assert {place.member.kind for model in planted for place in model.trunk.members.values()} == {"perceptron"}


def test_planting_says_what_was_opened_and_which_fusion_gave_way():
    _, space = spaces("image+text classification")
    encoders = {"image": Convolution(widths=(16,), grid=2, pool="max"), "text": NGram()}
    pooled = Design(model=ModelSpec(dim=32, encoders=encoders, fusion=Multiplicative()))
    planted, words = space.mutate(pooled, np.random.default_rng(1))
    kind = planted.model.fusion.kind
    assert words.endswith(f" that grow (fusion multiplicative -> {kind}, all tokens of image)")
    crossed = replace_at(pooled, "model.fusion", CrossAttention())
    planted, words = space.mutate(crossed, np.random.default_rng(1))
    assert planted.model.fusion == CrossAttention(pool="none")
    assert words.endswith(" that grow (all tokens of fusion and image)")


def test_a_transformer_is_planted_with_a_mechanism_that_the_design_has():
    _, space = spaces("image+text classification")
    encoders = {"image": Convolution(widths=(16,), grid=2), "text": NGram()}
    fusion = CrossAttention(heads=2, attention=Mean(), pool="none")
    design = Design(model=ModelSpec(dim=32, encoders=encoders, fusion=fusion))
    planted = [space.mutate(design, np.random.default_rng(seed))[0].model.trunk for seed in range(20)]
    members = [place.member for trunk in planted for place in trunk.members.values()]
    found = {member.attention.kind for member in members if member.kind == "transformer"}
    assert found == {"dot_product", "mean"}


def test_a_trunk_over_one_token_is_first_handed_every_token():
    _, space = spaces("image+text classification")
    encoders = {"image": Convolution(widths=(16,), grid=2), "text": NGram()}
    design = Design(model=ModelSpec(dim=32, encoders=encoders, fusion=FiLM(), trunk=PopulationSpec()))
    assert members_over_one_token(design.model, space.designs.signature) == ["residual_convolution_1", "transformer_1"]
    opened, words = space.mutate(design, np.random.default_rng(0))
    assert words == "growth: one token -> every token (all tokens of fusion)"
    assert fused_tokens(opened.model, space.designs.signature) == 4


def test_a_cross_takes_over_the_growth_of_another_design():
    designs, space = spaces("image+text classification")
    rng = np.random.default_rng(3)
    plain, grown = designs.sample(rng), space.sample(rng)
    plain = plain.model_copy(update={"model": plain.model.model_copy(update={"dim": grown.model.dim})})
    child = space.crossover(plain, grown, rng)
    assert rest(child) == rest(plain)
    assert (child.model.trunk, child.training.growth) == (grown.model.trunk, grown.training.growth)
    assert space.crossover(grown, plain, rng) == grown


def scored(design: Design, error: float) -> Evaluation:
    candidate = Candidate("local", design, design)
    return Evaluation(candidate, Scored(objectives={"error": error, "flops": 1.0}, metrics={}), 0, 0, 1.0)


def test_growth_is_proposed_for_what_others_found():
    designs, space = spaces("image+text classification")
    archive = SharedArchive(("error", "flops"))
    found = designs.sample(np.random.default_rng(1))
    archive.add(scored(found, 0.2))
    candidates = LocalSearch(space, seed=0, name="growth", crossover=0.0).ask(3, archive)
    assert {candidate.proposer for candidate in candidates} == {"growth"}
    assert all(candidate.design.training.growth is not None for candidate in candidates)
    assert all(rest(candidate.design) == rest(found) for candidate in candidates)


@pytest.mark.parametrize("dim", [32, 96])
def test_the_attention_of_a_member_is_a_slot_like_any_other(dim: int):
    designs, _ = spaces("image+text classification")
    plain = designs.sample(np.random.default_rng(0)).to_dict()
    plain["model"] |= {
        "dim": dim,
        "encoders": {"image": {"kind": "pixels"}, "text": {"kind": "ngram"}},
        "fusion": {"kind": "concat"},
        "trunk": {"kind": "population"},
    }
    design = Design.from_dict(plain)
    slot = "model.trunk.members.transformer_1.member.attention"
    assert attention_slots(design) == {slot: False}
    assert slot_named(short_slot(slot)) == slot
    archive = SharedArchive(("error", "flops"))
    archive.add(scored(design, 0.2))
    bred = NSGA2(seed=0).ask(2, archive)
    mechanisms = [candidate.design.model.trunk.members["transformer_1"].member.attention for candidate in bred]
    assert mechanisms[0] != mechanisms[1]
    assert DotProduct() not in mechanisms


def test_a_fusion_that_makes_one_vector_starves_a_trunk_that_looks_at_tokens():
    signature = SIGNATURES["image+text classification"]
    members = {"transformer_1": Place(member=TransformerMemberSpec(heads=1))}
    encoders = {"image": Convolution(pool="none"), "text": NGram()}
    spec = ModelSpec(dim=8, encoders=encoders, fusion=FiLM(pool="none"), trunk=PopulationSpec(members=members, heads=1))
    vector = replace_at(spec, "fusion", Composed())
    assert starves(vector, spec, signature) == "members of the trunk that look at tokens would be handed one"
    assert starves(replace_at(spec, "fusion", CrossAttention(pool="none")), spec, signature) is None
    assert starves(replace_at(vector, "fusion", Concat()), vector, signature) is None
    assert starves(replace_at(vector, "trunk", None), spec, signature) is None
