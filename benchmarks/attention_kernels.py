"""What compiling costs: kernels made from graphs against hand-written modules, and against node-by-node interpretation.

    python benchmarks/attention_kernels.py --repeats 60

Forward and backward on the same inputs and weights, outputs compared first. Rivals take turns, so that a busy machine
slows all alike; the figures are ratios of medians in processor time.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chiasma.model.graph import parts
from chiasma.model.graph.compile import kernel_class, part_names
from chiasma.model.graph.graph import AttentionGraph
from chiasma.model.kernel import AttentionKernel

ROWS, HEADS, TOKENS, WIDTH = 32, 4, 64, 16


class Standard(nn.Module):
    """Scaled dot-product attention as one writes it by hand."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Champion(nn.Module):
    """The champion of document 001: sigmoid weights of values and keys, normalised values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = (v * WIDTH**-0.5) @ k.transpose(-2, -1)
        weights = torch.sigmoid(scores).masked_fill(~mask, 0.0)
        return weights @ self.norm(functional.gelu(v))


class Cosine(nn.Module):
    """Cosine similarity, ten times, softmax, then a gate on the result."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        q = q * (q.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
        k = k * (k.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
        scores = 10.0 * q @ k.transpose(-2, -1)
        lowest = torch.finfo(scores.dtype).min
        out = torch.softmax(scores.masked_fill(~mask, lowest), dim=-1) @ v
        return out * torch.sigmoid(self.gate(out))


class Kernelised(nn.Module):
    """Linear attention with the feature map elu + 1, on keys that went through a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(WIDTH, WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        shown = mask.any(-2)[..., None]
        asked = functional.elu(q) + 1
        offered = (functional.elu(self.map(k)) + 1).masked_fill(~shown, 0.0)
        total = asked @ offered.sum(-2)[..., None]
        return asked @ (offered.transpose(-2, -1) @ v) / total.clamp(min=1e-6)


def graph(*nodes: Sequence[Any]) -> AttentionGraph:
    """Return the graph of ``(operator, input, ...)`` nodes."""
    return AttentionGraph.from_dict({"nodes": [{"op": op, "inputs": inputs} for op, *inputs in nodes]})


RIVALS: Mapping[str, tuple[AttentionGraph, type[nn.Module]]] = {
    "standard": (AttentionGraph(), Standard),
    "champion": (
        graph(("dot", "v", "k"), ("sigmoid", 0), ("gelu", "v"), ("layer_norm", 2), ("weighted_sum", 1, 3)),
        Champion,
    ),
    "cosine": (
        graph(("cosine", "q", "k"), ("softmax", 0), ("weighted_sum", 1, "v"), ("gated_value", 2)),
        Cosine,
    ),
    "kernelised": (graph(("linear", "k"), ("linear_sum", "q", 0, "v")), Kernelised),
}


class Interpreted(nn.Module):
    """Looks every node up, gathers its inputs and calls its function: what the compiler spares.

    Args:
        found: The graph.
        kernel: The compiled kernel, whose modules are used.
    """

    def __init__(self, found: AttentionGraph, kernel: AttentionKernel) -> None:
        super().__init__()
        self.found = found
        self.parts = kernel
        self.names = part_names(found.nodes)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        values: dict[int | str, Tensor] = {"q": q, "k": k, "v": v}
        for place, node in enumerate(self.found.nodes):
            given = [values[source] for source in node.inputs]
            part = getattr(self.parts, self.names.get(place, ""), None)
            values[place] = FUNCTIONS[node.op](part, mask, node.constants, *given)
        return values[len(self.found.nodes) - 1]


FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "dot": lambda part, mask, given, a, b: (a * a.shape[-1] ** -0.5) @ b.transpose(-2, -1),
    "cosine": lambda part, mask, given, a, b: given["scale"] * parts.unit(a) @ parts.unit(b).transpose(-2, -1),
    "softmax": lambda part, mask, given, a: parts.softmax(a, mask),
    "sigmoid": lambda part, mask, given, a: parts.shared(torch.sigmoid(a), mask, given["divided"]),
    "gelu": lambda part, mask, given, a: functional.gelu(a),
    "layer_norm": lambda part, mask, given, a: part(a),
    "linear": lambda part, mask, given, a: part(a),
    "gated_value": lambda part, mask, given, a: a * torch.sigmoid(part(a)),
    "weighted_sum": lambda part, mask, given, a, b: a @ b,
    "linear_sum": lambda part, mask, given, a, b, c: parts.linear_sum(
        a, b, c, mask.any(-2)[..., None], given["feature"]
    ),
}


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    q, k, v = (torch.randn(ROWS, HEADS, TOKENS, WIDTH, requires_grad=True) for _ in range(3))
    mask = (torch.arange(TOKENS) < torch.randint(TOKENS // 2, TOKENS + 1, (ROWS, 1)))[:, None, None, :]
    for name, (found, written) in RIVALS.items():
        compiled, by_hand = kernel_class(found)(WIDTH), written()
        by_hand.load_state_dict(dict(zip(by_hand.state_dict(), compiled.state_dict().values(), strict=True)))
        rivals = {"compiled": compiled, "by hand": by_hand, "interpreted": Interpreted(found, compiled)}
        outputs = {rival: module(q, k, v, mask) for rival, module in rivals.items()}
        for out in outputs.values():
            torch.testing.assert_close(out, outputs["compiled"])
        seconds: dict[str, list[float]] = {rival: [] for rival in rivals}
        for repeat in range(options.repeats):
            order = list(rivals) if repeat % 2 else list(rivals)[::-1]
            for rival in order:
                seconds[rival].append(timed(rivals[rival], (q, k, v, mask)))
        median = {rival: statistics.median(values) for rival, values in seconds.items()}
        print(
            f"{name:<11} compiled / by hand {median['compiled'] / median['by hand']:.3f}, "
            f"interpreted / compiled {median['interpreted'] / median['compiled']:.3f}, "
            f"{1000 * median['compiled']:.2f} ms forward and backward"
        )


def timed(module: nn.Module, given: tuple[Tensor, ...], calls: int = 5) -> float:
    """Return processor seconds of one forward and backward pass."""
    start = time.process_time()
    for _ in range(calls):
        module(*given).sum().backward()
    return (time.process_time() - start) / calls


if __name__ == "__main__":
    main()
