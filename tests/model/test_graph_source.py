"""The file that a mechanism is written to runs, and computes what the mechanism does."""

import pytest
import torch

from chiasma.data.batch import Tokens
from chiasma.model.attention import MultiHeadAttention
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.behaviour import fingerprint
from chiasma.model.graph.compile import part_names
from chiasma.model.graph.formula import formula
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.graph.known import KNOWN
from chiasma.model.graph.source import module_source
from chiasma.model.kernel import Projections
from tests.contracts.inputs import DIM, tokens


def written(attention: GraphAttention) -> torch.nn.Module:
    scope: dict[str, object] = {"__name__": "discovered"}
    exec(compile(module_source(attention), "discovered.py", "exec"), scope)
    return scope["MultiHeadAttention"](DIM, 2)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
@pytest.mark.parametrize("projections", [Projections(), Projections(q=False, v=False), Projections(k=False, o=False)])
def test_a_mechanism_as_a_file_computes_the_same(known, projections: Projections):
    attention = GraphAttention(graph=known.graph, projections=projections)
    torch.manual_seed(0)
    ours = MultiHeadAttention(DIM, heads=2, attention=attention).eval()
    theirs = written(attention).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    seen = tokens(6)
    seen = Tokens(seen.x.masked_fill(~seen.mask[..., None], 0.0), seen.mask)
    mask = seen.mask[:, None, None, :]
    if attention.graph.mixes_queries:
        mask = mask & seen.mask[:, None, :, None]
    shown = seen.mask[..., None]
    torch.testing.assert_close(theirs(seen.x, seen.x, mask) * shown, ours(seen, seen) * shown)


def test_what_is_not_learned_does_not_appear():
    source = module_source(GraphAttention(projections=Projections(q=False)))
    assert "self.q" not in source
    assert "for x in (queries, self.k(keys), self.v(keys))" in source
    assert source.startswith('"""softmax(q·kᵀ/√d)·v, without W_q')


def graph(*nodes) -> AttentionGraph:
    return AttentionGraph.from_dict({"nodes": [{"op": op, "inputs": inputs} for op, *inputs in nodes]})


def test_a_part_is_called_by_what_it_acts_on_whatever_stands_elsewhere():
    both = graph(("linear", "q"), ("linear", "k"), ("dot", 0, 1), ("softmax", 2), ("weighted_sum", 3, "v"))
    one = graph(("linear", "k"), ("dot", "q", 0), ("softmax", 1), ("weighted_sum", 2, "v"))
    assert sorted(part_names(both.nodes).values()) == ["linear_k", "linear_q"]
    assert list(part_names(one.nodes).values()) == ["linear_k"]
    deep = graph(("gelu", "k"), ("linear", 0), ("dot", "q", 1), ("softmax", 2), ("weighted_sum", 3, "v"))
    (name,) = part_names(deep.nodes).values()
    assert name.startswith("linear_")
    assert name != "linear_k"


def test_two_parts_that_act_on_the_same_have_different_names():
    twice = graph(
        ("linear", "k"), ("linear", "k"), ("linear", "k"), ("add", 0, 1), ("add", 2, 3), ("dot", "q", 4),
        ("softmax", 5), ("weighted_sum", 6, "v"),
    )  # fmt: skip
    names = list(part_names(twice.nodes).values())
    assert len(set(names)) == 3


def test_mechanisms_that_differ_read_differently():
    bilinear = graph(("bilinear", "q", "k"), ("softmax", 0), ("weighted_sum", 1, "v"))
    linear = graph(("linear", "k"), ("dot", "q", 0), ("softmax", 1), ("weighted_sum", 2, "v"))
    assert formula(bilinear) != formula(linear)
    product = graph(("dot", "q", "k"), ("softmax", 0), ("weighted_sum", 1, "v"), ("multiply", "q", 2), ("linear", 3))
    factor = graph(("dot", "q", "k"), ("softmax", 0), ("weighted_sum", 1, "v"), ("linear", 2), ("multiply", "q", 3))
    assert formula(product) != formula(factor)


@pytest.mark.parametrize("normaliser", ["sparsemax", "entmax"])
def test_choosing_keys_is_another_mechanism_than_weights_that_are_sparse_by_themselves(normaliser: str):
    ends = [("weighted_sum", 1, "v")]
    plain = graph(("dot", "q", "k"), (normaliser, 0), *ends)
    chosen = graph(("dot", "q", "k"), ("top_k", 0), (normaliser, 1), ("weighted_sum", 2, "v"))
    assert fingerprint(GraphAttention(graph=plain)) != fingerprint(GraphAttention(graph=chosen))


def test_keys_may_be_chosen_among_chosen_keys():
    twice = graph(("dot", "q", "k"), ("top_k", 0), ("top_k", 1), ("softmax", 2), ("weighted_sum", 3, "v"))
    module = MultiHeadAttention(DIM, heads=2, attention=GraphAttention(graph=twice))
    assert module(tokens(12), tokens(12)).isfinite().all()
