import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasma.core.rng import numpy_rng
from chiasma.core.spec import value_at
from chiasma.model.attention import MultiHeadAttention
from chiasma.model.encoders import ViT
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.formula import formula
from chiasma.model.graph.ops import OPS
from chiasma.model.multimodal import ModelSpec
from chiasma.search.attention_space import AttentionSpace
from chiasma.train.design import Design
from tests.contracts.inputs import spoiled, tokens

SLOT = "model.encoders.image.attention"


def wander(space: AttentionSpace, *, steps: int, seed: int = 0) -> list[GraphAttention]:
    """Return what random edits and crosses lead to."""
    rng = numpy_rng(seed, "wander")
    found = [GraphAttention()]
    for _ in range(steps):
        first, second = (found[int(rng.integers(len(found)))] for _ in range(2))
        found.append(space.crossover(first, second, rng) if rng.random() < 0.3 else space.mutate(first, rng)[0])
    return found


@pytest.mark.parametrize("crossed", [False, True])
def test_everything_that_edits_and_crosses_make_runs_and_obeys_masks(crossed: bool):
    space = AttentionSpace(SLOT, crossed=crossed)
    for genome in wander(space, steps=150):
        torch.manual_seed(0)
        module = MultiHeadAttention(8, heads=2, attention=genome)
        keys = tokens(7, dim=8).only(torch.tensor([True, False, True, True, True]))
        queries = tokens(5, dim=8, seed=1) if crossed else keys
        out = module(queries, keys)
        assert out.isfinite().all(), genome
        noisy = spoiled(keys, 7.0)
        other = module(spoiled(queries, 7.0) if crossed else noisy, noisy)
        torch.testing.assert_close(out[queries.mask], other[queries.mask], rtol=1e-4, atol=1e-5)


def test_every_operator_is_reached_by_edits():
    ops = {node.op for genome in wander(AttentionSpace(SLOT), steps=600) for node in genome.graph.nodes}
    assert ops == set(OPS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_an_edit_changes_the_genome_and_says_how(seed: int):
    space, rng = AttentionSpace(SLOT), np.random.default_rng(seed)
    genome = space.sample(rng)
    edited, words = space.mutate(genome, rng)
    assert edited != genome
    assert words


def test_scores_can_be_joined_with_scores_that_were_not_there():
    space, standard = AttentionSpace(SLOT), GraphAttention()
    wanted = {
        "a bias": lambda words: "bias16[i-j]" in words and "q·kᵀ" in words,
        "smoothed scores": lambda words: "conv3(" in words and words.startswith("("),
    }
    for number in range(3000):
        words = formula(space.mutate(standard, numpy_rng(0, number))[0].graph)
        wanted = {name: joined for name, joined in wanted.items() if not joined(words)}
        if not wanted:
            break
    assert list(wanted) == []


def test_a_joined_source_is_never_the_edge_s_own_where_another_can_be_had():
    space, standard = AttentionSpace(SLOT), GraphAttention()
    children = [space.mutate(standard, numpy_rng(0, number)) for number in range(2000)]
    doubled = [
        child
        for child, words in children
        if words.endswith("add_scores inserted") and "(x1 + x1)" in formula(child.graph)
    ]
    assert doubled == []


def test_the_same_randomness_makes_the_same_edit():
    genomes = [wander(AttentionSpace(SLOT), steps=30, seed=5)[-1] for _ in range(2)]
    assert genomes[0] == genomes[1]


def test_a_crossed_slot_never_gets_a_mechanism_for_a_sequence_that_looks_at_itself():
    space = AttentionSpace("model.fusion.attention", crossed=True)
    assert not any(genome.self_only for genome in wander(space, steps=200))
    assert any("where queries go" in reason for reason in space.refused)


def test_what_is_refused_is_counted_by_reason():
    space = AttentionSpace(SLOT)
    wander(space, steps=300)
    assert sum(space.refused.values()) > 0
    assert all(len(reason) > 10 and not reason.startswith("graph") for reason in space.refused)


def test_lowering_puts_the_genome_into_the_slot_and_changes_nothing_else():
    design = Design(model=ModelSpec(encoders={"image": ViT()}))
    genome = wander(AttentionSpace(SLOT), steps=5)[-1]
    lowered = AttentionSpace(SLOT).lower(genome, design)
    assert value_at(lowered, SLOT) == genome
    assert AttentionSpace(SLOT).lower(GraphAttention(), lowered) == AttentionSpace(SLOT).lower(GraphAttention(), design)
