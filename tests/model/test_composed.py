"""Composed fusions: what cannot be built, what is one and the same, and what a tree says of itself."""

from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from chiasma.core.errors import ConfigError
from chiasma.data.batch import Tokens
from chiasma.model.attention import DotProduct
from chiasma.model.cost import cost
from chiasma.model.fusion import Composed, Concat, CrossAttention
from chiasma.model.fusion.composed.behaviour import fusion_fingerprint
from chiasma.model.fusion.composed.compile import class_source
from chiasma.model.fusion.composed.expression import IMAGE, TEXT, Expression, expression, expression_of, tree_of
from chiasma.model.fusion.composed.known import as_tree, known_fusions
from chiasma.model.fusion.composed.ops import OPS
from chiasma.model.fusion.composed.presence import overlap, union
from chiasma.model.fusion.composed.tree import FusionTree
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.known import KNOWN
from chiasma.model.kernel import Projections
from chiasma.model.mechanisms import mechanisms_of
from chiasma.model.multimodal import ModelSpec
from chiasma.model.recompute import recompute_activations
from tests.contracts.compositions import tree_with
from tests.contracts.inputs import DIM, signature, tokens

SEEN, READ = expression("mean", IMAGE), expression("mean", TEXT)
SELF_ONLY = next(each.graph for each in KNOWN if each.graph.self_only)


def fusion(root: Expression, **settings: Any) -> Composed:
    return Composed(tree=tree_of(root), **settings)


def rows(*nodes: tuple[Any, ...]) -> dict[str, Any]:
    return {"nodes": [{"op": op, "inputs": inputs} for op, *inputs in nodes]}


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([], "a fusion has at least one node, but got none"),
        ([("means", "image")], "'means' is no operator of fusions. Did you mean 'mean'?"),
        ([("mean", "image", "text")], "mean takes 1 inputs, but got 2"),
        ([("mean", "sound")], "an input is image, text or the number of an earlier node, but got 'sound'"),
        ([("mean", "image"), ("mean", 0)], "node 1 (mean) takes tokens, but 0 is vector"),
        ([("join", "text", "image")], "node 0 (join) takes image, but text is text"),
        ([("add", "image", "text")], "node 0 (add) takes another image, but text is text"),
        ([("mean", 1), ("mean", "text")], "node 0 may use nodes before it, but uses node 1"),
        ([("mean", "image"), ("gate", 0)], "the output must be tokens or a vector, but it is a gate"),
        ([("mean", "image")], "there wherever an image or a text is, but it is there only with an image"),
        (
            [("join", "image", "text"), ("mean", 0), ("concat", 1, 1)],
            "concat needs two different inputs",
        ),
    ],
)
def test_an_ill_typed_tree_cannot_be_built(nodes, reason):
    with pytest.raises(ConfigError) as error:
        FusionTree.from_dict(rows(*nodes))
    assert reason in str(error.value)


def test_only_a_sequence_that_looks_at_itself_may_feed_keys_where_queries_go():
    attention = GraphAttention(graph=SELF_ONLY)
    own = expression("attend", IMAGE, IMAGE, attention=attention)
    assert fusion(expression("join", own, TEXT)).build(DIM)
    with pytest.raises(ConfigError, match="a sequence that looks at itself, but here one looks at another"):
        fusion(expression("attend", IMAGE, TEXT, attention=attention))


def test_constants_are_those_of_the_table():
    with pytest.raises(ConfigError, match=r"attend\.heads must be one of 4, 1, 2, 8, but got 3"):
        fusion(expression("attend", IMAGE, TEXT, heads=3))
    with pytest.raises(ConfigError, match="only attend has an attention, but mean is given 'dot_product'"):
        fusion(expression("mean", IMAGE, attention=DotProduct()))


def test_a_difference_that_vanishes_with_a_modality_is_no_fusion():
    modulated = expression("film", TEXT, SEEN)
    with pytest.raises(ConfigError, match="must not vanish where a modality is absent"):
        fusion(expression("mean", expression("difference", TEXT, modulated)))
    with pytest.raises(ConfigError, match="must not vanish where a modality is absent"):
        fusion(expression("distance", READ, expression("mean", modulated)))
    assert fusion(expression("distance", expression("linear", READ), expression("mean", modulated)))


def test_a_fusion_that_grows_too_steeply_is_refused():
    product = expression("multiply", SEEN, READ)
    for _ in range(2):
        product = expression("multiply", product, product)
    with pytest.raises(ConfigError, match="to the power 6 at most, but one grows to the power 8"):
        fusion(product)
    assert fusion(expression("multiply", expression("norm", product.inputs[0]), SEEN))


def test_a_tree_has_at_most_32_nodes():
    deep = expression("concat", SEEN, READ)
    for _ in range(29):
        deep = expression("linear", deep)
    assert len(tree_of(deep).nodes) == 32
    with pytest.raises(ConfigError, match="at most 32 nodes, but this one has 33"):
        tree_of(expression("linear", deep))


def test_dead_nodes_go_and_what_is_computed_twice_is_computed_once():
    tree = FusionTree.from_dict(
        rows(
            ("linear", "image"), ("mean", "image"), ("mean", "image"), ("mean", "text"),
            ("multiply", 1, 3), ("concat", 2, 4),
        )
    )  # fmt: skip
    assert [node.op for node in tree.nodes] == ["mean", "mean", "multiply", "concat"]


@pytest.mark.parametrize("name", ["add", "distance", "multiply", "difference", "bilinear", "concat", "weigh", "film"])
def test_the_inputs_of_commutative_operators_have_no_order_and_those_of_others_do(name: str):
    ways = [tree_of(expression(name, *pair)).content_hash() for pair in ((SEEN, READ), (READ, SEEN))]
    assert (ways[0] == ways[1]) == OPS[name].commutative


def test_two_parts_that_learn_are_never_one():
    twice = expression("add", expression("linear", SEEN), expression("linear", SEEN))
    names = list(dict(fusion(expression("concat", twice, READ)).build(DIM).tree.named_children()))
    assert len([name for name in names if name.startswith("linear")]) == 2


def test_who_asks_when_absent_is_no_difference_where_nobody_is():
    for keys in (IMAGE, expression("join", IMAGE, TEXT)):
        asking = [expression("attend", keys, keys, asks=asks) for asks in (True, False)]
        trees = [tree_of(expression("concat", expression("mean", each), READ)) for each in asking]
        assert trees[0] == trees[1]
    crossed = [
        tree_of(expression("join", expression("attend", IMAGE, TEXT, asks=asks), TEXT)) for asks in (True, False)
    ]
    assert crossed[0] != crossed[1]


def test_dropout_is_zero_where_nothing_can_be_dropped():
    assert fusion(expression("concat", SEEN, READ, hidden=0), dropout=0.3) == fusion(
        expression("concat", SEEN, READ, hidden=0)
    )
    assert fusion(expression("concat", SEEN, READ, hidden=1), dropout=0.3).dropout == 0.3


def test_presences_are_sets_of_rows():
    assert union("image", "text") == "either"
    assert union("both", "text") == "text"
    assert overlap("image", "text") == "both"
    assert overlap("either", "image") == "image"


def test_a_tree_survives_being_an_expression():
    for each in known_fusions():
        assert tree_of(expression_of(each.fusion.tree)) == each.fusion.tree


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            expression("mean", expression("add", expression("film", IMAGE, READ), IMAGE)),
            expression("add", expression("mean", expression("film", IMAGE, READ)), SEEN),
        ),
        (
            expression("add", expression("add", SEEN, READ), expression("largest", TEXT)),
            expression("add", SEEN, expression("add", READ, expression("largest", TEXT))),
        ),
    ],
)
def test_fusions_that_do_the_same_have_one_fingerprint_though_their_trees_differ(first, second):
    one, other = fusion(first), fusion(second)
    assert one != other
    assert fusion_fingerprint(one) == fusion_fingerprint(other)


def test_fusions_that_differ_have_different_fingerprints():
    found = [fusion_fingerprint(each.fusion) for each in known_fusions()]
    assert len(set(found)) == len(found)
    asks = [fusion(expression("join", expression("attend", IMAGE, TEXT, asks=asks), TEXT)) for asks in (True, False)]
    assert fusion_fingerprint(asks[0]) != fusion_fingerprint(asks[1])


def test_a_fusion_that_reads_means_alone_does_not_ask_for_every_token():
    assert not Composed().every_token
    assert not as_tree(Concat()).every_token
    assert as_tree(CrossAttention()).every_token
    assert fusion(expression("concat", expression("largest", IMAGE), READ)).every_token


def test_heads_must_divide_the_models_width():
    model = {"dim": 12, "encoders": {"image": {"kind": "convolution"}, "text": {"kind": "ngram"}}}
    with pytest.raises(ConfigError, match=r"divisible by fusion\.tree's heads, but dim=12 and heads=8"):
        ModelSpec.from_dict({**model, "fusion": fusion(expression("attend", IMAGE, TEXT, heads=8)).to_dict()})
    assert ModelSpec.from_dict({**model, "fusion": fusion(expression("attend", IMAGE, TEXT)).to_dict()})


def test_attentions_inside_are_among_a_models_mechanisms():
    attention = DotProduct(projections=Projections(v=False))
    composed = fusion(expression("attend", IMAGE, TEXT, attention=attention))
    encoders = {"image": {"kind": "convolution"}, "text": {"kind": "ngram"}}
    model = ModelSpec.from_dict({"encoders": encoders, "fusion": composed.to_dict()})
    assert mechanisms_of(model) == [DotProduct(), attention]


def test_everything_is_counted_whatever_the_operator():
    encoders = {"image": {"kind": "convolution"}, "text": {"kind": "ngram"}}
    for name in OPS:
        spec = {"dim": 16, "encoders": encoders, "fusion": {"kind": "composed", "tree": tree_with(name)}}
        assert cost(ModelSpec.from_dict(spec), signature()).uncounted == (), name


CONVOLVED = {"op": "convolutional", "inputs": ["q", "k"]}
LOOKS_AROUND = GraphAttention.from_dict(
    {"graph": {"nodes": [CONVOLVED, {"op": "softmax", "inputs": [0]}, {"op": "weighted_sum", "inputs": [1, "v"]}]}}
)
BESIDE_TEXT = expression("attend", IMAGE, TEXT, asks=False, residual=False, attention=LOOKS_AROUND)
"""Image tokens that are nowhere in a row without text, or without image."""


@pytest.mark.parametrize("stands_in", [expression("attend", BESIDE_TEXT, TEXT), expression("film", BESIDE_TEXT, READ)])
def test_where_a_modality_is_absent_its_place_holds_nothing_that_padding_reaches(stands_in):
    torch.manual_seed(0)
    module = fusion(expression("concat", expression("mean", stands_in), SEEN)).build(DIM).double().eval()
    present = torch.tensor([False, True, True, True, True])[:, None]
    image, text = (Tokens(each.x.double(), each.mask) for each in (tokens(5), tokens(4, seed=1)))
    image = Tokens(image.x, image.mask & present)
    padded = [Tokens(pad(each.x, (0, 0, 0, 3), value=7.0), pad(each.mask, (0, 3))) for each in (image, text)]
    with torch.no_grad():
        torch.testing.assert_close(module(image, text).x, module(*padded).x, rtol=1e-12, atol=1e-12)


def test_recomputing_changes_no_gradient():
    composed = next(each for each in known_fusions() if each.name == "Gen-7").fusion
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        module = composed.build(DIM).train()
        recompute_activations(module, recompute)
        torch.manual_seed(1)
        module(tokens(5), tokens(4, seed=1)).mean().square().sum().backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_the_compiled_source_is_what_a_person_would_write():
    source = class_source(Composed().tree)
    assert '"""concat2(mean(image), mean(text))"""' in source
    assert "mean_0 = parts.mean_of(image, image_mask)" in source
    assert source.rstrip().endswith("return concat_2[:, None], either_there[:, None]")


def test_formulas_say_what_is_unusual():
    alone = expression("attend", TEXT, expression("join", IMAGE, TEXT), heads=2, residual=False, norm="none")
    assert fusion(alone).words == "attend2 without norm alone(text to [image | text])"
    bare = expression("attend", TEXT, IMAGE, attention=DotProduct(projections=Projections(q=False, k=False)))
    assert fusion(bare).words == "attend4(text to image)[W_v, W_o]"
    known = next(each for each in KNOWN if each.name == "sigmoid attention")
    found = expression("attend", TEXT, IMAGE, attention=GraphAttention(graph=known.graph))
    assert fusion(found).words.startswith("attend4(text to image)[σ(")
