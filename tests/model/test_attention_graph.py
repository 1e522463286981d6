from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasma.core.errors import ConfigError
from chiasma.core.rng import numpy_rng
from chiasma.data.batch import Tokens
from chiasma.model.attention import DotProduct, MultiHeadAttention
from chiasma.model.fusion import Alternating, CrossAttention
from chiasma.model.graph import parts
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.canonical import canonical
from chiasma.model.graph.compile import kernel_source
from chiasma.model.graph.formula import formula
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.ops import OPS
from chiasma.model.kernel import Projections
from chiasma.search.attention_space import AttentionSpace
from tests.contracts.inputs import tokens

DOT = ("dot", "q", "k")
CHAMPION = [("dot", "v", "k"), ("sigmoid", 0), ("gelu", "v"), ("layer_norm", 2), ("weighted_sum", 1, 3)]


def graph(nodes: list[tuple[Any, ...]]) -> AttentionGraph:
    return AttentionGraph.from_dict({"nodes": [{"op": op, "inputs": inputs} for op, *inputs in nodes]})


def heads(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 3, 6, 8, generator=generator) for _ in range(3))


def test_standard_attention_as_a_graph_gives_the_bits_of_dot_product_attention():
    torch.manual_seed(0)
    ours = MultiHeadAttention(8, heads=2, attention=GraphAttention())
    torch.manual_seed(0)
    usual = MultiHeadAttention(8, heads=2, attention=DotProduct())
    assert torch.equal(ours(tokens(4, dim=8), tokens(6, dim=8)), usual(tokens(4, dim=8), tokens(6, dim=8)))


def test_the_champion_of_document_001_is_a_graph_without_queries():
    attention = GraphAttention(graph=graph(CHAMPION), projections=Projections(q=False, k=False))
    assert formula(attention.graph) == "σ(v·kᵀ/√d)·norm(gelu(v))"
    assert attention.self_only
    assert attention.projections == Projections(q=False, k=False, v=True, o=True)
    _, k, v = heads()
    kernel = attention.build(8)
    weights = torch.sigmoid(v @ k.transpose(-2, -1) / 8**0.5)
    expected = weights @ torch.nn.functional.layer_norm(torch.nn.functional.gelu(v), (8,))
    torch.testing.assert_close(kernel(v, k, v, torch.ones(2, 1, 1, 6, dtype=torch.bool)), expected)


def test_softmax_of_dot_times_values_becomes_one_fused_call():
    source = kernel_source(AttentionGraph())
    assert "functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)" in source
    assert "softmax(x" not in source


def test_weights_that_two_sums_share_are_not_fused():
    shared = graph([DOT, ("softmax", 0), ("weighted_sum", 1, "v"), ("weighted_sum", 1, "k"), ("add", 2, 3)])
    assert "scaled_dot_product_attention" not in kernel_source(shared)


def test_a_projection_of_what_the_graph_does_not_use_is_off():
    blind = GraphAttention(graph=graph([("relative_bias",), ("softmax", 0), ("weighted_sum", 1, "v")]))
    assert blind.projections == Projections(q=False, k=False, v=True, o=True)


def test_dead_nodes_are_gone():
    dead = graph([("gelu", "v"), DOT, ("softmax", 1), ("sigmoid", 1), ("weighted_sum", 2, "v")])
    assert dead == AttentionGraph()


def test_swapped_inputs_of_a_commutative_operator_are_the_same_graph():
    first = graph([DOT, ("cosine", "q", "k"), ("add_scores", 0, 1), ("softmax", 2), ("weighted_sum", 3, "v")])
    second = graph([DOT, ("cosine", "q", "k"), ("add_scores", 1, 0), ("softmax", 2), ("weighted_sum", 3, "v")])
    assert first == second
    assert first.content_hash() == second.content_hash()


def test_the_same_computed_twice_is_computed_once():
    twice = graph([DOT, DOT, ("add_scores", 0, 1), ("softmax", 2), ("weighted_sum", 3, "v")])
    assert [node.op for node in twice.nodes] == ["dot", "add_scores", "softmax", "weighted_sum"]


def test_two_learned_maps_of_the_same_are_two():
    nodes = [("linear", "v"), ("linear", "v"), ("multiply", 0, 1), DOT, ("softmax", 3), ("weighted_sum", 4, 2)]
    squared = [("linear", "v"), ("multiply", 0, 0), DOT, ("softmax", 2), ("weighted_sum", 3, 1)]
    assert len(graph(nodes).nodes) == 6
    assert graph(nodes) != graph(squared)


def test_learned_twins_in_any_order_are_the_same_graph():
    first = [("linear", "v"), ("linear", "v"), ("gelu", 0), ("add", 2, 1), DOT, ("softmax", 4), ("weighted_sum", 5, 3)]
    second = [("linear", "v"), ("linear", "v"), ("gelu", 1), ("add", 0, 2), DOT, ("softmax", 4), ("weighted_sum", 5, 3)]
    assert graph(first) == graph(second)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_canonical_form_of_a_canonical_form_is_itself(seed: int, crossed: bool):
    found = AttentionSpace("attention", crossed=crossed).sample(numpy_rng(seed, "sample")).graph
    assert canonical(found.nodes) == found.nodes
    assert AttentionGraph.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([("softmax", "q")], r"node 0 \(softmax\) takes a score, but q is a query"),
        ([DOT, ("softmax", 0), ("softmax", 1)], r"node 2 \(softmax\) takes a score, but 1 is a weight"),
        ([("dot", "q", 1), ("gelu", "v")], "node 0 may use nodes before it, but uses node 1"),
        ([("gelu", "q")], "no tokens are mixed: the output depends on no weighted sum"),
        ([DOT, ("softmax", 0)], "the output must be tokens of the queries, but it is a weight"),
        ([("dott", "q", "k")], r"nodes\.0: 'dott' is no operator of attention graphs\. Did you mean 'dot'\?"),
        ([("dot", "q")], "dot takes 2 inputs, but got 1"),
        ([], "a graph has at least one node, but got none"),
        (
            [DOT, ("multiply_scores", 0, 0), ("multiply_scores", 1, 1), ("softmax", 2), ("weighted_sum", 3, "v")],
            "may grow as its inputs to the power 6 at most, but one grows to the power 8",
        ),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused_with_the_reason(nodes: list[tuple[Any, ...]], reason: str):
    with pytest.raises(ConfigError, match=reason):
        graph(nodes)


def test_a_constant_outside_of_its_choices_is_refused():
    node = {"op": "top_k", "inputs": [0], "constants": {"count": 7}}
    with pytest.raises(ConfigError, match=r"top_k\.count must be one of 8, 4, 10, 16, 32, but got 7"):
        AttentionGraph.from_dict({"nodes": [{"op": "dot", "inputs": ["q", "k"]}, node]})


@pytest.mark.parametrize("fusion", [CrossAttention, Alternating])
def test_attention_that_feeds_keys_where_queries_go_is_refused_between_two_modalities(fusion):
    with pytest.raises(ConfigError, match="only a sequence that looks at itself can use it"):
        fusion.from_dict({"attention": GraphAttention(graph=graph(CHAMPION)).to_dict()})


def test_queries_that_do_not_count_are_hidden_from_convolutions_over_queries():
    nodes = [("depthwise", "q"), ("dot", 0, "k"), ("softmax", 1), ("weighted_sum", 2, "v")]
    attention = GraphAttention(graph=graph(nodes))
    assert attention.graph.mixes_queries
    torch.manual_seed(0)
    module = MultiHeadAttention(8, heads=2, attention=attention)
    asking, keys = tokens(6, dim=8), tokens(5, dim=8, seed=1)
    other = Tokens(torch.where(asking.mask[..., None], asking.x, 9.0), asking.mask)
    assert torch.equal(module(asking, keys)[asking.mask], module(other, keys)[asking.mask])


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    scores = torch.randn(4, 1, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    found = parts.sparsemax(scores, torch.ones(4, 1, 1, 7, dtype=torch.bool))
    low, high = scores.amin(-1, keepdim=True) - 1, scores.amax(-1, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        enough = (scores - middle).clamp(min=0).sum(-1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    torch.testing.assert_close(found, (scores - low).clamp(min=0))


def test_entmax_lies_on_the_simplex_where_its_threshold_puts_it():
    scores = torch.randn(4, 1, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    found = parts.entmax(scores, torch.ones(4, 1, 1, 7, dtype=torch.bool))
    z = scores / 2
    low, high = z.amin(-1, keepdim=True) - 1, z.amax(-1, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        enough = (z - middle).clamp(min=0).square().sum(-1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    torch.testing.assert_close(found, (z - low).clamp(min=0).square())


@pytest.mark.parametrize("weigh", [parts.sparsemax, parts.entmax, parts.softmax])
def test_weights_have_the_gradient_that_finite_differences_give(weigh: Any):
    scores = torch.randn(2, 1, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])[:, None, None]
    assert torch.autograd.gradcheck(lambda x: weigh(x, mask), scores.requires_grad_())


def test_top_k_leaves_the_best_visible_keys_and_hidden_keys_take_no_place():
    scores = torch.tensor([[[[5.0, 4.0, 3.0, 2.0]]]])
    mask = torch.tensor([[[[False, True, True, True]]]])
    assert parts.top_k(scores, mask, 2).flatten().tolist() == [False, True, True, False]


def test_what_top_k_hides_stays_hidden_after_other_scores_are_added():
    nodes = [DOT, ("top_k", 0), ("cosine", "q", "k"), ("add_scores", 1, 2), ("softmax", 3), ("weighted_sum", 4, "v")]
    spec = graph(nodes).to_dict()
    for node in spec["nodes"]:
        node["constants"] = {"count": 4} if node["op"] == "top_k" else node["constants"]
    kernel = AttentionGraph.from_dict(spec)
    q, k, v = heads()
    everything = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    chosen = parts.top_k(q @ k.transpose(-2, -1) / 8**0.5, everything, 4)
    cosine = 10 * parts.unit(q) @ parts.unit(k).transpose(-2, -1)
    expected = parts.softmax(q @ k.transpose(-2, -1) / 8**0.5 + cosine, chosen) @ v
    torch.testing.assert_close(GraphAttention(graph=kernel).build(8)(q, k, v, everything), expected)


def test_keys_that_top_k_hid_are_seen_again_by_scores_of_the_mixed_tokens():
    first = [DOT, ("top_k", 0), ("softmax", 1), ("weighted_sum", 2, "v"), ("dot", 3, "k")]
    fused = graph([*first, ("softmax", 4), ("weighted_sum", 5, "v")])
    not_fused = graph([*first, ("temperature", 4), ("softmax", 5), ("weighted_sum", 6, "v")])
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 12, 8, generator=generator) for _ in range(3))
    everything = torch.ones(2, 1, 1, 12, dtype=torch.bool)
    alike = [GraphAttention(graph=each).build(8)(q, k, v, everything) for each in (fused, not_fused)]
    torch.testing.assert_close(*alike)


def test_linear_attention_gives_what_its_quadratic_form_gives():
    q, k, v = heads()
    shown = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])[:, None, :, None]
    weights = (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).transpose(-2, -1)
    weights = weights.masked_fill(~shown.transpose(-2, -1), 0.0)
    expected = weights / weights.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(parts.linear_sum(q, k, v, shown, "elu"), expected)


def test_rotated_products_depend_on_the_distance_of_places_alone():
    token = torch.randn(1, 1, 1, 7, generator=torch.Generator().manual_seed(0)).expand(1, 1, 9, 7)
    scores = parts.rotary(token) @ parts.rotary(token).transpose(-2, -1)
    for distance in range(9):
        same = scores[0, 0].diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand_as(same))


def with_constant(name: str, constant: str, value: Any) -> str:
    """Return the formula of a graph in which one operator has one constant; whatever it takes is there."""
    nodes: list[dict[str, Any]] = [
        {"op": "dot", "inputs": ["q", "k"]},
        {"op": "softmax", "inputs": [0]},
        {"op": "weighted_sum", "inputs": [1, "v"]},
    ]
    given = {"query": "q", "key": "k", "tokens": "v", "score": 0, "weight": 1}
    nodes.append({"op": name, "inputs": [given[slot] for slot in OPS[name].inputs], "constants": {constant: value}})
    rest = {
        "score": [("softmax", [3]), ("weighted_sum", [4, "v"])],
        "weight": [("weighted_sum", [3, "v"])],
        "query": [("add", [2, 3])],
        "tokens": [("add", [2, 3])],
    }
    nodes += [{"op": op, "inputs": inputs} for op, inputs in rest[OPS[name].output]]
    return formula(AttentionGraph.from_dict({"nodes": nodes}))


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.constants])
def test_every_constant_is_in_the_formula(name):
    for constant, values in OPS[name].constants.items():
        assert len({with_constant(name, constant, value) for value in values}) == len(values)


def test_a_shared_subexpression_has_a_name_in_the_formula():
    nodes = [DOT, ("softmax", 0), ("weighted_sum", 1, "v"), ("gelu", 2), ("multiply", 2, 3)]
    assert formula(graph(nodes)).endswith("where x1 = softmax(q·kᵀ/√d)·v")
