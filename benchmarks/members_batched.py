"""Members one after another against equal members batched: the time of forward and backward, in parts of the loop's.

    python benchmarks/members_batched.py
    python benchmarks/members_batched.py --device cuda

A population runs its members in a loop. Members of the same kind and size could run as one: their weights stacked,
``torch.func.vmap`` over them. Both compute the same (checked first). Printed is the time of the batched form divided
by that of the loop, the median of turns that take all in alternation; above 1 the loop is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from chiasma.data.batch import Tokens
from chiasma.model.trunk.members import ConvolutionMemberSpec, MemberSpec, PerceptronSpec, TransformerMemberSpec

KINDS: dict[str, MemberSpec] = {
    "perceptron": PerceptronSpec(dropout=0.0),
    "transformer": TransformerMemberSpec(dropout=0.0),
    "residual_convolution": ConvolutionMemberSpec(dropout=0.0),
}


class OnTensors(nn.Module):
    """A member that takes vectors and mask apart, as ``vmap`` needs it."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.member = member

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.member(Tokens(x, mask))


def looped(members: list[OnTensors], x: Tensor, mask: Tensor) -> Tensor:
    """Return the changes of all members ``[M B N D]``, one after another."""
    return torch.stack([member(x, mask) for member in members])


def stacked(members: list[OnTensors]) -> dict[str, Tensor]:
    """Return the members' weights by name, each ``[M ...]``."""
    every = [dict(member.named_parameters()) for member in members]
    return {name: torch.stack([each[name] for each in every]) for name in every[0]}


def batched(members: list[OnTensors], weights: dict[str, Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """Return the same as the loop, all at once."""
    return torch.func.vmap(lambda each: functional_call(members[0], each, (x, mask)))(weights)


def seconds(work: Callable[[], Tensor], device: str) -> float:
    """Return the time of a forward and a backward pass."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work().square().mean().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ratios(
    spec: MemberSpec, *, count: int, shape: tuple[int, int, int], turns: int, device: str
) -> tuple[float, float]:
    """Return batched over loop, with weights stacked in each step and with weights that are kept stacked."""
    x = torch.randn(shape, device=device)
    mask = torch.ones(shape[:2], dtype=torch.bool, device=device)
    members = [OnTensors(spec.build(shape[-1])).to(device) for _ in range(count)]
    kept = {name: value.detach().requires_grad_() for name, value in stacked(members).items()}
    alike = batched(members, stacked(members), x, mask)
    torch.testing.assert_close(looped(members, x, mask), alike, atol=1e-4, rtol=1e-3)
    each: list[float] = []
    once: list[float] = []
    for _ in range(turns):
        loop = seconds(lambda: looped(members, x, mask), device)
        each.append(seconds(lambda: batched(members, stacked(members), x, mask), device) / loop)
        once.append(seconds(lambda: batched(members, kept, x, mask), device) / loop)
    return statistics.median(each), statistics.median(once)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for shape in ((64, 20, 64), (32, 64, 256)):
        for kind, spec in KINDS.items():
            for count in (2, 4, 6):
                each, once = ratios(spec, count=count, shape=shape, turns=options.turns, device=options.device)
                words = f"{each:.2f} (weights kept stacked: {once:.2f})"
                print(f"{shape}, {count} members, {kind:22} batched / loop {words}", flush=True)


if __name__ == "__main__":
    main()
