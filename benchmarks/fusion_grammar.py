"""Compose, edit and cross fusions at random, and run each one: forward, backward, padded, without image, text or both.

    python benchmarks/fusion_grammar.py --count 20000

A third each are fresh (of families, depths, widths and gatings drawn evenly), edits of a random member of the
population, and crosses of two. Each must type-check (building the value is the check), survive JSON, build at one of
two widths, give finite outputs and finite gradients on rows with padding and on rows without image, text or both, its
outputs must not change when padding does, and must change with whichever modality is there. Also printed: how many
distinct canonical forms and distinct behaviours there are, what was refused before it was a candidate, and which
operators appear.
"""

import argparse
import time
from collections import Counter

import numpy as np
import torch
from torch.nn import functional

from chiasma.core.rng import numpy_rng, seed_torch
from chiasma.data.batch import Tokens
from chiasma.model.fusion import Composed
from chiasma.model.fusion.composed.behaviour import fusion_fingerprint
from chiasma.model.fusion.composed.ops import OPS
from chiasma.search.choices import pick
from chiasma.search.fusion_action import OPERATIONS
from chiasma.search.fusion_families import family_of
from chiasma.search.fusion_space import FusionSpace

WIDTHS, COUNTS = (32, 64), ((9, 7), (4, 12))
# With narrower heads a mechanism that normalises what a head returns has nothing left but signs.
POPULATION = 500
FINGERPRINTED = 10
"""Of every so many, one fingerprint is taken."""


def main() -> None:
    """Print how many fusions ran, and every reason of those that did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    space, rng = FusionSpace(), numpy_rng(options.seed, "grammar")
    faults, operators, families, made_by = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    forms, behaviours, fingerprinted = set[str](), set[str](), 0
    making = running = 0.0
    population = [Composed()]
    for number in range(options.count):
        started = time.perf_counter()
        operation = pick(OPERATIONS, rng)
        child = offspring(space, population, operation, rng)
        made = time.perf_counter()
        forms.add(child.content_hash())
        families[family_of(child)] += 1
        made_by[operation] += 1
        operators.update({node.op for node in child.tree.nodes})
        fault = why_broken(child, seed=number)
        making, running = making + made - started, running + time.perf_counter() - made
        if fault is not None:
            faults[fault] += 1
            print(f"{fault}: {child.words}", flush=True)
        if number % FINGERPRINTED == 0:
            behaviours.add(fusion_fingerprint(child))
            fingerprinted += 1
        population = [*population[-POPULATION + 1 :], child]
        if (number + 1) % 2_000 == 0:
            print(f"{number + 1:,}: {sum(faults.values())} faults", flush=True)
    count = options.count
    print(f"fusions that ran {count - sum(faults.values()):,}/{count:,} ({1 - sum(faults.values()) / count:.2%})")
    print(f"distinct canonical forms {len(forms):,}/{count:,} ({len(forms) / count:.1%})")
    print(f"distinct behaviours {len(behaviours):,}/{fingerprinted:,} ({len(behaviours) / fingerprinted:.1%})")
    print(f"making one took {1000 * making / count:.2f} ms, checking it {1000 * running / count:.2f} ms")
    print("made: " + ", ".join(f"{name} {times:,}" for name, times in made_by.most_common()))
    print("families: " + ", ".join(f"{name} {times / count:.1%}" for name, times in families.most_common()))
    for reason, times in space.refused.most_common():
        print(f"  edit refused: {reason}: {times:,}")
    unseen = set(OPS) - set(operators)
    print("operators: " + ", ".join(f"{name} {times / count:.1%}" for name, times in operators.most_common()))
    print(f"operators that never appeared: {', '.join(sorted(unseen)) or 'none'}")
    raise SystemExit(1 if faults or unseen else 0)


def offspring(space: FusionSpace, population: list[Composed], operation: str, rng: np.random.Generator) -> Composed:
    """Return a fresh fusion, an edit of one of the population, or a cross of two."""
    first, second = (population[int(rng.integers(len(population)))] for _ in range(2))
    if operation == "fresh":
        return space.sample(rng)
    return space.mutate(first, rng)[0] if operation == "mutate" else space.crossover(first, second, rng)


def why_broken(genome: Composed, *, seed: int) -> str | None:
    """Return what is wrong with one fusion, or None."""
    if Composed.from_json(genome.to_json()) != genome:
        return "JSON changes it"
    seed_torch(seed, "fusion")
    dim, counts = WIDTHS[seed % 2], COUNTS[seed // 2 % 2]
    module = genome.build(dim)
    with torch.no_grad():
        for parameter in module.parameters():
            # Learned numbers begin even, and then two parts may cancel by chance of the start.
            parameter.add_(0.02 * torch.randn_like(parameter))
    image, text = (tokens(count, dim, absent) for count, absent in zip(counts, (2, 3), strict=True))
    out = module(image, text)
    if not bool(out.x.isfinite().all()):
        return "output not finite"
    if out.x.shape[-1] != dim or not torch.equal(out.present(), torch.tensor([True, True, True, True, False])):
        return "output of the wrong shape, or there in the wrong rows"
    out.mean().square().mean().backward()
    learnt = [image.x, text.x, *module.parameters()]
    if not all(value.grad is None or bool(value.grad.isfinite().all()) for value in learnt):
        return "gradient not finite"
    module.eval()
    with torch.no_grad():
        clean = module(image, text).mean()
        # Text stands behind the image in joint tokens, and attention may know places: those move with its padding.
        more = 0 if any(node.op == "join" for node in genome.tree.nodes) else 2
        noisy = module(spoiled(image, more=more), spoiled(text, more=2)).mean()
        if not torch.allclose(clean, noisy, rtol=1e-4, atol=1e-5):
            return "padded tokens matter"
        other = module(another(image), another(text)).mean()
    alike = (clean == other).all(-1)
    # Rows: image and text twice, text alone, image alone, neither.
    if alike.tolist()[:4] != [False] * 4:
        return "what is there does not matter"
    return None if bool(alike[4]) else "what is absent matters"


def tokens(count: int, dim: int, absent: int) -> Tokens:
    """Return random tokens of five rows: a full row, a padded one, one without any, and a last one without any."""
    lengths = torch.full((5,), count)
    lengths[1], lengths[absent], lengths[4] = count - 3, 0, 0
    return Tokens(torch.randn(5, count, dim, requires_grad=True), torch.arange(count) < lengths[:, None])


def another(clean: Tokens) -> Tokens:
    """Return the tokens with other content."""
    return Tokens(clean.x.detach().flip(-1) * 0.7 + 0.3, clean.mask)


def spoiled(clean: Tokens, *, more: int) -> Tokens:
    """Return the tokens with other padding, and some more of it."""
    x = torch.where(clean.mask[..., None], clean.x.detach(), 7.0)
    return Tokens(functional.pad(x, (0, 0, 0, more), value=7.0), functional.pad(clean.mask, (0, more)))


if __name__ == "__main__":
    main()
