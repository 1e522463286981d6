"""What the compiler emits against the definition, operator by operator, of what a graph means."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from chiasma.core.rng import numpy_rng
from chiasma.model.graph import parts
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.compile import part_names
from chiasma.model.graph.graph import AttentionGraph
from chiasma.search.attention_space import AttentionSpace

WIDTH, KEYS = 8, 40


def by_definition(graph: AttentionGraph, kernel: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor):
    """Return what a graph means: scores carry which keys they show, and tokens carry nothing."""
    asking, shown = mask.any(-1, keepdim=True), mask.any(-2)[..., None]
    values: list[Tensor] = []
    visible: list[Tensor] = []
    for place, node in enumerate(graph.nodes):
        ins = [{"q": q, "k": k, "v": v}[s] if isinstance(s, str) else values[s] for s in node.inputs]
        seen = mask
        for source in node.inputs:
            if isinstance(source, int) and graph.kinds[source] in ("score", "weight"):
                seen = seen & visible[source]
        part = getattr(kernel, part_names(graph.nodes).get(place, ""), None)
        counted = asking if graph.kinds[place] == "query" else shown
        value, seen = _apply(node.op, ins, dict(node.constants), part, seen, counted, (asking, shown), (q, k))
        values.append(value)
        visible.append(seen)
    return values[-1]


def _apply(op, ins, constants, part, seen, counted, sides, ends):
    asking, shown = sides
    root = WIDTH**-0.5
    match op:
        case "dot":
            return ins[0] @ ins[1].mT * root, seen
        case "bilinear":
            return (part(ins[0]) * (root if constants["scaled"] else 1)) @ ins[1].mT, seen
        case "additive":
            return part(ins[0], ins[1]), seen
        case "convolutional":
            first = part(ins[0], asking) * (root if constants["scaled"] else 1)
            return first @ part(ins[1], shown).mT, seen
        case "cosine":
            return constants["scale"] * parts.unit(ins[0]) @ parts.unit(ins[1]).mT, seen
        case "distance":
            return -(ins[0][..., :, None, :] - ins[1][..., None, :, :]).square().sum(-1) * root, seen
        case "relative_bias":
            return part(ends[0].shape[-2], ends[1].shape[-2]), seen
        case "add_scores" | "add":
            return ins[0] + ins[1], seen
        case "multiply_scores" | "multiply":
            return ins[0] * ins[1], seen
        case "temperature":
            return part(ins[0]), seen
        case "soft_cap":
            return constants["cap"] * torch.tanh(ins[0] / constants["cap"]), seen
        case "top_k":
            return ins[0], parts.top_k(ins[0], seen, constants["count"])
        case "softmax" | "sparsemax" | "entmax":
            return getattr(parts, op)(ins[0], seen), seen
        case "sigmoid":
            return parts.shared(torch.sigmoid(ins[0]), seen, constants["divided"]), seen
        case "relu_squared":
            return parts.shared(torch.relu(ins[0]).square(), seen, constants["divided"]), seen
        case "weighted_sum":
            return ins[0] @ ins[1], seen
        case "linear_sum":
            return parts.linear_sum(*ins, shown, constants["feature"]), seen
        case "gelu":
            return functional.gelu(ins[0]), seen
        case "gated_value":
            return ins[0] * torch.sigmoid(part(ins[0])), seen
        case "depthwise":
            return part(ins[0], counted), seen
        case "rotary":
            return parts.rotary(ins[0]), seen
        case _:
            return part(ins[0]), seen


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_compiled_graphs_compute_what_their_operators_mean(seed: int):
    rng, space = numpy_rng(seed, "walk"), AttentionSpace("model.encoders.image.attention")
    attention = GraphAttention()
    for _ in range(int(rng.integers(1, 12))):
        attention, _ = space.mutate(attention, rng)
    kernel = attention.build(WIDTH).double().eval()
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 2, KEYS, WIDTH, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = (torch.arange(KEYS) < torch.tensor([[KEYS], [KEYS - 11]]))[:, None, None, :]
    expected = by_definition(attention.graph, kernel, q, k, v, mask)
    torch.testing.assert_close(kernel(q, k, v, mask), expected, rtol=1e-7, atol=1e-7)
