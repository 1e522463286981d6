"""Edit and cross attention mechanisms at random, and run each one: forward, backward, padded, without any token.

    python benchmarks/attention_mutations.py --count 100000

Every child is lowered into multi-head attention, for half of them in a slot where one sequence looks at another. It
must type-check (building the value is the check), build, give finite outputs and finite gradients on rows with
padding and on a row without any token, and its outputs must not change when padded tokens do. Also printed: how many
distinct canonical forms there are, what was refused before it was a candidate, and which operators appear.
"""

import argparse
import time
from collections import Counter

import numpy as np
import torch

from chiasma.core.rng import numpy_rng, seed_torch
from chiasma.data.batch import Tokens
from chiasma.model.attention import MultiHeadAttention
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.formula import formula
from chiasma.model.graph.ops import OPS
from chiasma.search.attention_space import AttentionSpace

DIM, HEADS, ROWS, QUERIES, KEYS = 8, 2, 3, 9, 20
POPULATION = 500
CROSSOVER = 0.3


def main() -> None:
    """Print how many children ran, and every reason of those that did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faults: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    forms: set[str] = set()
    making = running = 0.0
    for crossed in (False, True):
        space = AttentionSpace("attention", crossed=crossed)
        rng = numpy_rng(options.seed, "mutations", int(crossed))
        population = [GraphAttention()]
        for number in range(options.count // 2):
            started = time.perf_counter()
            child = offspring(space, population, rng)
            made = time.perf_counter()
            forms.add(f"{crossed} {child.content_hash()}")
            operators.update({node.op for node in child.graph.nodes})
            fault = why_broken(child, crossed=crossed, seed=number)
            making, running = making + made - started, running + time.perf_counter() - made
            if fault is not None:
                faults[fault] += 1
                print(f"{fault}: {formula(child.graph)}", flush=True)
            population = [*population[-POPULATION + 1 :], child]
            if (number + 1) % 10_000 == 0:
                print(f"{number + 1:,} {'crossed' if crossed else 'self'}: {sum(faults.values())} faults", flush=True)
        refused += space.refused
    count = options.count // 2 * 2
    print(f"children that ran {count - sum(faults.values()):,}/{count:,} ({1 - sum(faults.values()) / count:.2%})")
    print(f"distinct canonical forms {len(forms):,} ({len(forms) / count:.1%})")
    print(f"making them took {making / running:.1%} of the time of one forward and backward pass of a tiny layer each")
    for reason, times in [*faults.most_common(), *refused.most_common()]:
        print(f"  {'fault' if reason in faults else 'edit refused'}: {reason}: {times:,}")
    unseen = set(OPS) - set(operators)
    print("operators: " + ", ".join(f"{name} {times / count:.1%}" for name, times in operators.most_common()))
    print(f"operators that never appeared: {', '.join(sorted(unseen)) or 'none'}")
    raise SystemExit(1 if faults or unseen else 0)


def offspring(space: AttentionSpace, population: list[GraphAttention], rng: np.random.Generator) -> GraphAttention:
    """Return an edit of one of the population, or a cross of two."""
    first, second = (population[int(rng.integers(len(population)))] for _ in range(2))
    return space.crossover(first, second, rng) if rng.random() < CROSSOVER else space.mutate(first, rng)[0]


def why_broken(genome: GraphAttention, *, crossed: bool, seed: int) -> str | None:
    """Return what is wrong with one mechanism, or None."""
    seed_torch(seed, "layer")
    module = MultiHeadAttention(DIM, heads=HEADS, attention=genome)
    keys = tokens(KEYS)
    queries = tokens(QUERIES) if crossed else keys
    out = module(queries, keys)
    if not bool(out.isfinite().all()):
        return "output not finite"
    out.square().mean().backward()
    learnt = [queries.x, keys.x, *module.parameters()]
    if not all(value.grad is None or bool(value.grad.isfinite().all()) for value in learnt):
        return "gradient not finite"
    with torch.no_grad():
        noisy = spoiled(keys)
        other = module(spoiled(queries) if crossed else noisy, noisy)
    seen = queries.mask
    if not torch.allclose(out.detach()[seen], other[seen], rtol=1e-4, atol=1e-5):
        return "padded tokens matter"
    return None


def tokens(count: int) -> Tokens:
    """Return random tokens: a full row, a padded one, and one without any."""
    lengths = torch.tensor([count, count - 3, 0])
    return Tokens(torch.randn(ROWS, count, DIM, requires_grad=True), torch.arange(count) < lengths[:, None])


def spoiled(clean: Tokens) -> Tokens:
    """Return the tokens with other padding."""
    return Tokens(torch.where(clean.mask[..., None], clean.x.detach(), 7.0), clean.mask)


if __name__ == "__main__":
    main()
