"""The search of document 001, made again from its description: what Chiasma's own is measured against.

    python benchmarks/document_001.py --samples 40000

prints what its variation gives. NSGA-II over lists of operators that nothing types: no duplicate is recognised, every
valid mechanism is trained at full length, and what the validator refuses has the fitness of the worst.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from document_001_attention import NORMALISERS, OPERATORS, SCORES, VALUES, Node, Symbolic, SymbolicKernel

from chiasma.model.kernel import Projections
from chiasma.search.pareto import crowding, front_numbers

CROSSOVER = 0.5
GRAPH_SHARE = 0.8
TOURNAMENT = 3
FLAGS = ("q", "k", "v", "o")
WORST = (1.0, 1e12)

Fitness = tuple[float, float]
"""Error and FLOPs, both minimised."""


@dataclass(frozen=True)
class Genotype:
    """A list of operators, and which of the four projections are learned."""

    nodes: tuple[Node, ...]
    flags: tuple[bool, bool, bool, bool] = (True, True, True, True)

    @property
    def attention(self) -> Mapping[str, Any]:
        """Return it as an attention that a design can have."""
        flags = dict(zip(FLAGS, self.flags, strict=True))
        spec = Symbolic(nodes=self.pruned, projections=Projections(**flags))
        return {"kind": "plugin", "name": "document_001", "options": spec.to_dict()}

    @property
    def pruned(self) -> tuple[Node, ...]:
        """Return the operators that the last one depends on."""
        needed: set[int] = set()
        waiting = [len(self.nodes) - 1]
        while waiting:
            place = waiting.pop()
            needed.add(place)
            waiting += [source for source in self.nodes[place][1] if isinstance(source, int) and source not in needed]
        order = sorted(needed)
        return tuple((self.nodes[old][0], _moved(self.nodes[old][1], order.index)) for old in order)


_STANDARD: tuple[Node, ...] = (("scaled_dot_product", ("q", "k")), ("softmax", (0,)), ("weighted_sum", (1, "v")))
STANDARD = Genotype(_STANDARD)


class Document001:
    """The algorithm, a generation at a time.

    Args:
        rng: All randomness.
        population: How many survive.
    """

    def __init__(self, rng: np.random.Generator, population: int = 50) -> None:
        self.rng = rng
        self.size = population
        self.population: list[tuple[Genotype, Fitness]] = []

    def ask(self) -> list[Genotype]:
        """Return the next generation: standard attention mutated once, later children of the population."""
        if not self.population:
            return [mutated(STANDARD, self.rng) for _ in range(self.size)]
        order = ranked([fitness for _, fitness in self.population])
        found: list[Genotype] = []
        for _ in range(self.size // 2):
            pair = [self._winner(order), self._winner(order)]
            if self.rng.random() < CROSSOVER:
                pair = list(crossed(*pair, self.rng))
            found += [mutated(each, self.rng) for each in pair]
        return found

    def tell(self, children: Sequence[tuple[Genotype, Fitness]]) -> None:
        """Keep the best of parents and children."""
        pool = [*self.population, *children]
        order = ranked([fitness for _, fitness in pool])
        self.population = [pool[place] for place in order[: self.size]]

    def _winner(self, order: Sequence[int]) -> Genotype:
        drawn = self.rng.choice(len(order), size=min(TOURNAMENT, len(order)), replace=False)
        return self.population[order[int(drawn.min())]][0]


def ranked(fitness: Sequence[Fitness]) -> list[int]:
    """Return places by front and crowding; the original's crowding of the worst is not a number, ours is none."""
    points = np.array(fitness)
    fronts, spread = front_numbers(points), np.zeros(len(points))
    for front in np.unique(fronts):
        spread[fronts == front] = crowding(points[fronts == front])
    return sorted(range(len(points)), key=lambda place: (fronts[place], -spread[place], place))


def mutated(parent: Genotype, rng: np.random.Generator) -> Genotype:
    """Return a child with one change of its graph, or of one projection."""
    if rng.random() >= GRAPH_SHARE:
        place = int(rng.integers(len(FLAGS)))
        flags = tuple(flag != (index == place) for index, flag in enumerate(parent.flags))
        return Genotype(parent.nodes, flags)  # type: ignore[arg-type]
    change = _CHANGES[int(rng.integers(len(_CHANGES)))]
    return Genotype(change(list(parent.nodes), rng), parent.flags)


def crossed(first: Genotype, second: Genotype, rng: np.random.Generator) -> tuple[Genotype, Genotype]:
    """Return two children cut and joined at points of their own; only references to later operators are repaired."""
    one, two = (int(rng.integers(1, len(each.nodes) + 1)) for each in (first, second))
    flag = int(rng.integers(1, len(FLAGS)))
    return (
        Genotype(_repaired(first.nodes[:one] + second.nodes[two:], rng), first.flags[:flag] + second.flags[flag:]),  # type: ignore[arg-type]
        Genotype(_repaired(second.nodes[:two] + first.nodes[one:], rng), second.flags[:flag] + first.flags[flag:]),  # type: ignore[arg-type]
    )


def is_valid(genotype: Genotype) -> bool:
    """Return what the original's validator says: values weighted by a normalised score, and values only from v."""
    nodes = genotype.nodes
    name, inputs = nodes[-1]
    if name != "weighted_sum" or len(inputs) != 2 or not isinstance(inputs[0], int):
        return False
    normaliser, normalised = nodes[inputs[0]]
    if normaliser not in NORMALISERS or len(normalised) != 1 or not isinstance(normalised[0], int):
        return False
    return nodes[normalised[0]][0] in SCORES and _only_values(nodes, inputs[1])


def can_run(genotype: Genotype, *, tokens: int = 65, width: int = 64) -> bool:
    """Return whether it runs at all on the tokens of the original's images; most that cannot lack an input."""
    x = torch.randn(1, 1, tokens, width)
    try:
        found = SymbolicKernel(genotype.pruned, width)(x, x + 1, x - 1, torch.ones(1, 1, 1, tokens, dtype=torch.bool))
    except (TypeError, IndexError, RuntimeError):
        return False
    return found.shape == x.shape


def _only_values(nodes: Sequence[Node], source: str | int) -> bool:
    if isinstance(source, str):
        return source == "v"
    name, inputs = nodes[source]
    return name in VALUES and all(_only_values(nodes, each) for each in inputs)


def _change_operator(nodes: list[Node], rng: np.random.Generator) -> tuple[Node, ...]:
    place = int(rng.integers(len(nodes)))
    nodes[place] = (_operator(rng), nodes[place][1])
    return tuple(nodes)


def _change_connection(nodes: list[Node], rng: np.random.Generator) -> tuple[Node, ...]:
    place = int(rng.integers(len(nodes)))
    name, inputs = nodes[place]
    if inputs:
        index = int(rng.integers(len(inputs)))
        nodes[place] = (name, (*inputs[:index], _source(place, rng), *inputs[index + 1 :]))
    return tuple(nodes)


def _add(nodes: list[Node], rng: np.random.Generator) -> tuple[Node, ...]:
    """Put an operator of one input on an edge."""
    edges = [(place, index) for place, (_, inputs) in enumerate(nodes) for index in range(len(inputs))]
    if not edges:
        return tuple(nodes)
    place, index = edges[int(rng.integers(len(edges)))]
    added: Node = (_operator(rng), (nodes[place][1][index],))
    later = [(name, _moved(inputs, lambda old: old + (old >= place))) for name, inputs in nodes[place:]]
    name, inputs = later[0]
    later[0] = (name, (*inputs[:index], place, *inputs[index + 1 :]))
    return (*nodes[:place], added, *later)


def _remove(nodes: list[Node], rng: np.random.Generator) -> tuple[Node, ...]:
    """Drop an operator; what used it uses its first input."""
    if len(nodes) == 1:
        return tuple(nodes)
    gone = int(rng.integers(len(nodes)))
    instead = nodes[gone][1][0] if nodes[gone][1] else "q"

    def moved(source: str | int) -> str | int:
        found = instead if source == gone else source
        return found - (found > gone) if isinstance(found, int) else found

    kept = [node for place, node in enumerate(nodes) if place != gone]
    return tuple((name, tuple(moved(source) for source in inputs)) for name, inputs in kept)


_CHANGES: tuple[Callable[[list[Node], np.random.Generator], tuple[Node, ...]], ...] = (
    _change_operator,
    _change_connection,
    _add,
    _remove,
)


def _operator(rng: np.random.Generator) -> str:
    return OPERATORS[int(rng.integers(len(OPERATORS)))]


def _source(place: int, rng: np.random.Generator) -> str | int:
    return (["q", "k", "v", *range(place)])[int(rng.integers(3 + place))]


def _moved(inputs: Sequence[str | int], move: Callable[[int], int]) -> tuple[str | int, ...]:
    return tuple(move(source) if isinstance(source, int) else source for source in inputs)


def _repaired(nodes: Sequence[Node], rng: np.random.Generator) -> tuple[Node, ...]:
    def repaired(place: int, source: str | int) -> str | int:
        if isinstance(source, str) or source < place:
            return source
        return int(rng.integers(place)) if place else "q"

    return tuple((name, tuple(repaired(place, s) for s in inputs)) for place, (name, inputs) in enumerate(nodes))


def main() -> None:
    """Print how many first mutants are valid, run, and are the standard attention that they came from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    mutants = [mutated(STANDARD, rng) for _ in range(options.samples)]
    valid = [each for each in mutants if is_valid(each)]
    runs = {each for each in set(valid) if can_run(each)}
    running = sum(each in runs for each in valid)
    same = sum(Genotype(each.pruned, each.flags) == STANDARD for each in mutants)
    print(f"{options.samples} mutants of standard attention: {len(valid) / options.samples:.1%} pass the validator,")
    print(f"{running / options.samples:.1%} also run, {same / options.samples:.1%} are standard attention again;")
    print(f"{len(runs)} different ones run")


if __name__ == "__main__":
    main()
