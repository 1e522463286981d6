import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from chiasma.core.rng import numpy_rng
from chiasma.core.spec import replace_at
from chiasma.data.batch import Tokens
from chiasma.model.attention import DotProduct
from chiasma.model.fusion import Composed, Concat, CrossAttention, Gated, Multiplicative
from chiasma.model.fusion.composed.expression import IMAGE, TEXT, expression, expression_of, tree_of
from chiasma.model.fusion.composed.known import known_fusions
from chiasma.model.fusion.composed.ops import OPS
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.multimodal import ModelSpec
from chiasma.search.choices import pick
from chiasma.search.fusion_action import DEPTHS, FAMILIES, GATINGS, INTENSITIES, OPERATIONS, WIDTHS, FusionAction
from chiasma.search.fusion_edits import EDITS, change_attention, operators
from chiasma.search.fusion_families import family_of
from chiasma.search.fusion_space import FusionSpace
from chiasma.train.design import Design

COUNTS, DIMS = ((6, 5), (3, 9)), (32, 64)  # Heads of width 1 have nothing left when they are normalised.


def wander(space: FusionSpace, *, steps: int, seed: int = 0) -> list[Composed]:
    """Return what fresh draws, edits and crosses lead to, a third each."""
    rng = numpy_rng(seed, "wander")
    found = [Composed()]
    for step in range(steps):
        first, second = (found[int(rng.integers(len(found)))] for _ in range(2))
        made = (space.sample(rng), space.mutate(first, rng)[0], space.crossover(first, second, rng))
        found.append(made[step % 3])
    return found


def given_tokens(count: int, dim: int, absent: int) -> Tokens:
    """Return random tokens of five rows: a full one, a padded one, one without any, and a last one without any."""
    lengths = torch.full((5,), count)
    lengths[1], lengths[absent], lengths[4] = count - 2, 0, 0
    return Tokens(torch.randn(5, count, dim, requires_grad=True), torch.arange(count) < lengths[:, None])


def spoiled(clean: Tokens, *, more: int) -> Tokens:
    """Return the tokens with other padding, and some more of it."""
    x = torch.where(clean.mask[..., None], clean.x.detach(), 7.0)
    return Tokens(functional.pad(x, (0, 0, 0, more), value=7.0), functional.pad(clean.mask, (0, more)))


def another(clean: Tokens) -> Tokens:
    return Tokens(clean.x.detach().flip(-1) * 0.7 + 0.3, clean.mask)


@pytest.fixture(scope="module")
def wandered() -> list[Composed]:
    return wander(FusionSpace(), steps=75)


def test_everything_that_is_made_runs_and_obeys_masks(wandered):
    for number, genome in enumerate(wandered):
        torch.manual_seed(number)
        dim, counts = DIMS[number % 2], COUNTS[number // 2 % 2]
        module = genome.build(dim)
        image, text = given_tokens(counts[0], dim, 2), given_tokens(counts[1], dim, 3)
        out = module(image, text)
        assert out.x.isfinite().all(), genome.words
        assert out.x.shape[-1] == dim
        assert out.present().tolist() == [True, True, True, True, False], genome.words
        out.mean().square().mean().backward()
        learnt = [image.x, text.x, *module.parameters()]
        assert all(value.grad is None or value.grad.isfinite().all() for value in learnt), genome.words
        # Text stands behind the image in joint tokens, and attention may know places: those move with its padding.
        more = 0 if any(node.op == "join" for node in genome.tree.nodes) else 2
        module.eval()
        with torch.no_grad():
            clean = module(image, text).mean()
            noisy = module(spoiled(image, more=more), spoiled(text, more=2)).mean()
            other = module(another(image), another(text)).mean()
        torch.testing.assert_close(clean, noisy, rtol=1e-4, atol=1e-5)
        assert (clean == other).all(-1).tolist() == [False, False, False, False, True], genome.words


def test_whatever_is_made_survives_json_and_is_canonical(wandered):
    for genome in wandered:
        again = Composed.from_json(genome.to_json())
        assert again == genome
        assert again.content_hash() == genome.content_hash()


def test_hardly_anything_is_made_twice(wandered):
    assert len({genome.content_hash() for genome in wandered}) > 0.9 * len(wandered)


def test_every_operator_is_reached_by_edits_of_one_fusion():
    root = expression_of(Composed().tree)
    edits = [edit for group in EDITS.values() for _, edit in group]
    made = [edit(root, numpy_rng(seed, "reach")) for seed in range(60) for edit in edits]
    assert {part.op for each in made if each is not None for part in operators(each[0])} == set(OPS)


def test_an_attention_inside_becomes_another_mechanism():
    root = expression_of(Composed(tree=tree_of(expression("attend", IMAGE, TEXT))).tree)
    found = [change_attention(root, numpy_rng(seed, "attention")) for seed in range(60)]
    kinds = {type(edited.attention) for edited, _ in found}
    assert kinds == {GraphAttention, DotProduct}
    assert all(words.startswith("attention: ") for _, words in found)
    assert not any(edited.attention.self_only for edited, _ in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_fusion_is_of_the_family_that_is_asked_for(family):
    space, rng = FusionSpace(), numpy_rng(0, family)
    for depth, width, gating in itertools.product(DEPTHS, WIDTHS, GATINGS):
        action = FusionAction(family=family, depth=depth, width=width, gating=gating)
        made, words = space.fresh(action, rng)
        assert family_of(made) == family, made.words
        assert words.startswith(f"a fresh {family} fusion, depth {depth}, width {width}")
        functions = {node.constants["function"] for node in made.tree.nodes if "gate" in node.op}
        assert functions == ({gating} if gating != "none" else set())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("factor", ["depth", "width", "gating"])
def test_each_factor_of_an_action_makes_another_fusion(family, factor):
    values = {"depth": DEPTHS, "width": WIDTHS, "gating": GATINGS}[factor]
    for seed in range(3):
        actions = [FusionAction.from_dict({"family": family, factor: value}) for value in values]
        made = [FusionSpace().fresh(action, numpy_rng(seed, "same"))[0].tree.content_hash() for action in actions]
        assert len(set(made)) == len(values)


def test_fine_tuning_keeps_every_operator_and_the_topology_moves_more_of_them():
    space, rng = FusionSpace(), numpy_rng(0, "intensities")
    changed = Counter()
    for _ in range(20):
        genome = space.sample(rng)
        for intensity in INTENSITIES:
            edited, words = space.mutate(genome, rng, intensity=intensity)
            assert edited != genome
            assert words
            before, after = (Counter(node.op for node in each.tree.nodes) for each in (genome, edited))
            moved = sum((before - after).values()) + sum((after - before).values())
            changed[intensity] += moved
            if intensity == "fine_tune":
                assert moved == 0, words
    assert 0 < changed["refine"] < changed["topology"]


def test_what_has_nothing_to_fine_tune_is_refined():
    genome = Composed(tree=tree_of(expression("add", expression("mean", IMAGE), expression("mean", TEXT))))
    for seed in range(5):
        edited, _ = FusionSpace().mutate(genome, numpy_rng(seed, "x"), intensity="fine_tune")
        assert edited != genome


def test_a_cross_replaces_a_subtree_by_one_of_the_other_of_the_same_kind():
    space = FusionSpace()
    first = next(each.fusion for each in known_fusions() if each.name == "Gen-7")
    second = next(each.fusion for each in known_fusions() if each.name == "cross-attention both ways")
    for seed in range(10):
        crossed, words = space.cross(first, second, numpy_rng(seed, "cross"))
        assert crossed not in (first, second)
        assert words.endswith("of another fusion")
        written = {fusion.words for fusion in (first, second)}
        assert crossed.words not in written
        sizes = {int(node.constants["heads"]) for node in crossed.tree.nodes if node.op == "attend"}
        assert sizes <= {8, 4}


def test_where_nothing_of_the_second_parent_fits_the_first_is_edited():
    tokens = Composed(tree=tree_of(expression("attend", IMAGE, TEXT)))
    _, words = FusionSpace().cross(tokens, Composed(), numpy_rng(0, "cross"))
    assert words.startswith("nothing of the second parent fits; ")


def test_the_same_randomness_makes_the_same_fusions():
    assert wander(FusionSpace(), steps=15, seed=5) == wander(FusionSpace(), steps=15, seed=5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), operation=st.sampled_from(OPERATIONS), parent=st.integers(0, 9))
def test_every_action_can_be_followed_whatever_the_parents(seed: int, operation: str, parent: int):
    space, rng = FusionSpace(), numpy_rng(seed, "follow")
    parents = [space.sample(rng) for _ in range(int(rng.integers(4)))]
    factors = {"family": pick(FAMILIES, rng), "intensity": pick(INTENSITIES, rng), "gating": pick(GATINGS, rng)}
    action = FusionAction.from_dict({"operation": operation, "parent": parent, **factors})
    made, words = space.follow(action, parents, rng)
    needed = {"fresh": 0, "mutate": 1, "crossover": 2}[operation]
    assert words.startswith("a fresh") == (len(parents) < needed or needed == 0)
    assert made not in parents or needed == 0


def test_the_parent_that_is_named_is_edited_and_beyond_the_last_the_last():
    space = FusionSpace()
    parents = [space.fresh(FusionAction(family=family), numpy_rng(0, family))[0] for family in ("mlp", "attention")]
    for place, expected in ((0, parents[0]), (1, parents[1]), (7, parents[1])):
        action = FusionAction(operation="mutate", intensity="fine_tune", parent=place)
        made, _ = space.follow(action, parents, numpy_rng(0, "edit"))
        assert [node.op for node in made.tree.nodes] == [node.op for node in expected.tree.nodes]


def test_a_mate_is_of_the_actions_family_if_there_is_one(monkeypatch):
    space = FusionSpace()
    parents = [space.fresh(FusionAction(family=family), numpy_rng(0, family))[0] for family in FAMILIES]
    mates = []
    monkeypatch.setattr(space, "cross", lambda first, second, rng: mates.append(second) or (first, "crossed"))
    for seed in range(10):
        space.follow(FusionAction(operation="crossover", family="bilinear"), parents, numpy_rng(seed, "mate"))
    assert {family_of(mate) for mate in mates} == {"bilinear"}


def design(fusion, *, dim: int = 16, pool: str = "max") -> Design:
    encoders = {"image": {"kind": "convolution", "pool": pool}, "text": {"kind": "bert", "depth": 1, "pool": "cls"}}
    return Design(model=ModelSpec.from_dict({"dim": dim, "encoders": encoders, "fusion": fusion.to_dict()}))


@pytest.mark.parametrize("fusion", [Gated(), Multiplicative(width=16), Concat(hidden=32), CrossAttention(depth=1)])
def test_hand_written_incumbents_are_edited_as_trees(fusion):
    space, incumbent = FusionSpace(), design(fusion)
    tree = space.at(incumbent)
    assert tree is not None
    edited, _ = space.mutate(tree, numpy_rng(0, "edit"))
    lowered = space.lower(edited, incumbent)
    assert space.at(lowered) == edited
    assert lowered.training == incumbent.training


def test_an_incumbent_that_no_tree_computes_says_so():
    assert FusionSpace().at(design(Concat(hidden=17))) is None
    one = Design(model=ModelSpec.from_dict({"encoders": {"text": {"kind": "ngram"}}}))
    assert FusionSpace().at(one) is None


def test_heads_that_do_not_fit_the_incumbents_width_become_fewer():
    genome = Composed(
        tree=tree_of(expression("attend", expression("attend", IMAGE, TEXT, heads=8), TEXT, heads=2)), dropout=0.1
    )
    lowered = FusionSpace().lower(genome, design(Gated(), dim=12))
    assert [node.constants["heads"] for node in lowered.model.fusion.tree.nodes] == [4, 2]
    assert lowered.model.fusion.dropout == 0.1
    assert FusionSpace().lower(genome, design(Gated(), dim=16)).model.fusion == genome


def test_a_fusion_of_single_tokens_is_handed_every_one():
    incumbent, space = design(Gated()), FusionSpace()
    looking = Composed(tree=tree_of(expression("attend", IMAGE, TEXT)))
    pools = [each.pool for _, each in sorted(space.lower(looking, incumbent).model.encoders.items())]
    assert pools == ["none", "none"]
    assert space.lower(Composed(), incumbent).model.encoders == incumbent.model.encoders


def test_designs_that_write_one_fusion_differently_behave_alike():
    space = FusionSpace()
    seen, read = expression("mean", IMAGE), expression("mean", TEXT)
    ways = [
        expression("add", expression("add", seen, read), expression("largest", TEXT)),
        expression("add", seen, expression("add", read, expression("largest", TEXT))),
    ]
    one, other = (design(Composed(tree=tree_of(way))) for way in ways)
    assert one.content_hash() != other.content_hash()
    assert space.behaviour(one) == space.behaviour(other)
    assert space.behaviour(one) != space.behaviour(replace_at(one, "training.optim.lr", 0.123))
    dropped = [design(Composed(dropout=dropout)) for dropout in (0.0, 0.1)]
    assert space.behaviour(dropped[0]) != space.behaviour(dropped[1])
    assert space.behaviour(design(Concat())) == space.behaviour(design(space.at(design(Concat()))))


def test_a_known_fusion_can_be_adopted():
    space = FusionSpace()
    found = {space.adopt(numpy_rng(seed, "adopt"))[1] for seed in range(20)}
    assert found <= {each.words for each in known_fusions()}
    assert len(found) > 5
