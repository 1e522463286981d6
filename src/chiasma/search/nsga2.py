"""NSGA-II over attention mechanisms: parents from the shared archive, children by edits and crosses."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasma.model.graph.attention import GraphAttention
from chiasma.search.attention_space import AttentionSpace, attention_slots, short_slot
from chiasma.search.choices import pick
from chiasma.search.draws import Draws
from chiasma.search.pareto import by_front, hypervolume
from chiasma.search.protocols import Archive, Candidate, Evaluation, Proposer, Standing
from chiasma.train.design import Design

FIRST_EDITS = 3
KNOWN_FOUNDERS = 0.5
KNOWN_CHILDREN = 0.1
KNOWN_MATES = 0.3
LEAN_FOUNDERS = 0.5
PRESELECTION = 0.75
PRESELECTED = 4
PROMISED_WITHIN = 1.05
BEYOND = "it costs more than a limit allows"


@dataclass(frozen=True)
class Rules:
    """The settings of the algorithm.

    Attributes:
        population: Parents that survive.
        crossover: How often a child comes from two parents rather than one.
        tournament: Parents that are drawn for each place; the best of them breeds.
        objectives: What is minimised together.
        limits: The most of an objective that is feasible; a design beyond is worse than every one within.
        known: Mechanisms of the literature are founders and mates too; else all begins with the first design's own.
    """

    population: int = 24
    crossover: float = 0.4
    tournament: int = 2
    objectives: tuple[str, ...] = ("error", "flops")
    limits: Mapping[str, float] | None = None
    known: bool = True

    def __post_init__(self) -> None:
        if self.population < 2 or self.tournament < 1 or not 0 <= self.crossover <= 1:
            raise ValueError(
                "population must be at least 2, tournament at least 1 and crossover within 0..1, but got "
                f"{self.population}, {self.tournament} and {self.crossover}."
            )

    @property
    def measured(self) -> tuple[str, ...]:
        """Return the objectives, and what else has a limit."""
        return tuple(dict.fromkeys((*self.objectives, *(self.limits or ()))))


class NSGA2(Proposer[GraphAttention]):
    """Breed from the non-dominated and least crowded designs of the archive.

    Deb et al. 2002 (https://doi.org/10.1109/4235.996017), with parents and children in one pool (mu + lambda).
    Unlike the paper: steady, because parents are chosen anew for every child from whatever has been told; designs
    that climbed higher on the ladder come before those that did not, since they were trained longer; objectives are
    means over whatever seeds a design has on its highest rung; where costs are known without training, what is
    beyond a limit is bred again at once, and with several objectives three children in four are the one of four that
    would add most to the front if it were as good as the best so far; and no design is bred twice, whether it is
    written the same or behaves the same. Noise is met by means over seeds: whoever asks trains what reaches the
    front again, and judges the best on fresh seeds in the end.

    Args:
        seed: The run's seed.
        base: The design to begin with, for children without parents; None to wait for parents.
        slot: Where in a design the attention stands; None for any place that a good design has.
        crossed: Mechanisms must also suit places where queries and keys are different sequences.
        rules: The settings of the algorithm.
        costs: Returns what is known of a design before it is trained, such as its FLOPs; None where nothing is.
        name: The proposer's name in the archive and the report.
    """

    def __init__(
        self,
        *,
        seed: int,
        base: Design | None = None,
        slot: str | None = None,
        crossed: bool = False,
        rules: Rules | None = None,
        costs: Callable[[Design], Mapping[str, float]] | None = None,
        name: str = "attention",
    ) -> None:
        self.base = base
        self.slot = slot
        self.crossed = crossed
        self.rules = rules or Rules()
        self.costs = costs
        self.name = name
        self._costs: dict[str, Mapping[str, float]] = {}
        self._expected: dict[str, dict[str, float]] = {}
        self._spaces: dict[tuple[str, bool], AttentionSpace] = {}
        known = () if base is None or slot is None else (self._behaviour_of(base),)
        self._draws = Draws(seed, name, behaviour=self._behaviour_of, known=known, excess=self.known_excess)

    @property
    def duplicates(self) -> int:
        """Return how many children were known already, by their form or by what they do, and were not trained again."""
        return self._draws.duplicates

    @property
    def seen(self) -> list[str]:
        """Return what everything that was proposed does, for others to share."""
        return self._draws.seen

    @property
    def refused(self) -> Counter[str]:
        """Return how many edits made no sense, by reason; each was followed by another try."""
        return sum((space.refused for space in self._spaces.values()), +Counter({BEYOND: self._draws.beyond}))

    def ask(self, count: int, archive: Archive) -> list[Candidate[GraphAttention]]:
        """Return up to ``count`` children that are not known and not waiting for an answer."""
        found = self._draws.fresh(count, archive, lambda rng: self._promising(rng, archive))
        if self._preselects:
            best = self._best(archive.standings(*self.rules.measured))
            self._expected |= {each.hash: self._hoped(each, best) for each in found}
        return found

    def known_excess(self, design: Design) -> float:
        """Return by what part a design's known costs exceed the limits; 0 where they do not, or none are known."""
        limits = self.rules.limits
        if self.costs is None or not limits:
            return 0.0
        costs = self._known_costs(design)
        return excess(costs, {name: limit for name, limit in limits.items() if name in costs})

    def tell(self, evaluations: Sequence[Evaluation[GraphAttention]]) -> None:
        """Forget that these were waiting; what was learnt is in the shared archive."""
        told = {evaluation.candidate.hash for evaluation in evaluations}
        self._draws.answer(told)
        self._expected = {hash: point for hash, point in self._expected.items() if hash not in told}

    def state_dict(self) -> Mapping[str, Any]:
        """Return the count of draws and what waits for an answer."""
        return {**self._draws.state_dict(), "expected": {hash: dict(point) for hash, point in self._expected.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._draws.load_state_dict(state)
        self._expected = {hash: dict(point) for hash, point in state["expected"].items()}

    def _promising(self, rng: np.random.Generator, archive: Archive) -> Candidate[GraphAttention] | None:
        """Return a child; where costs are known, mostly the one of several that promises most."""
        if not self._preselects or rng.random() >= PRESELECTION:
            return self._breed(rng, archive)
        children = [child for child in (self._breed(rng, archive) for _ in range(PRESELECTED)) if child is not None]
        standings = archive.standings(*self.rules.measured)
        known, best = [*self._expected.values(), *(s.objectives for s in standings)], self._best(standings)
        return max(children, key=lambda child: self._promise(self._hoped(child, best), known), default=None)

    @property
    def _preselects(self) -> bool:
        return self.costs is not None and len(self.rules.objectives) > 1

    def _best(self, standings: Sequence[Standing]) -> dict[str, float]:
        """Return the least of each objective that any design has."""
        return {name: min((s.objectives[name] for s in standings), default=0.0) for name in self.rules.measured}

    def _known_costs(self, design: Design) -> Mapping[str, float]:
        assert self.costs is not None
        name = design.content_hash()
        if name not in self._costs:
            self._costs[name] = self.costs(design)
        return self._costs[name]

    def _hoped(self, child: Candidate[GraphAttention], best: Mapping[str, float]) -> dict[str, float]:
        """Return a child's costs, and the best that is known of the rest: it may be as good as anything so far."""
        costs = self._known_costs(child.design)
        return {name: costs.get(name, value) for name, value in best.items()}

    def _promise(self, child: Mapping[str, float], known: Sequence[Mapping[str, float]]) -> float:
        """Return how much hypervolume a child would add; negative for one whose known costs are beyond the limits."""
        over = excess(child, self.rules.limits)
        if over or not known:
            return -over
        table = np.array([[point[name] for name in self.rules.objectives] for point in (*known, child)])
        scale = table.max(axis=0)
        table = table / np.where(scale > 0, scale, 1.0)
        corner = [PROMISED_WITHIN] * table.shape[1]
        return hypervolume(table, corner) - hypervolume(table[:-1], corner)

    def _breed(self, rng: np.random.Generator, archive: Archive) -> Candidate[GraphAttention] | None:
        parents = [each for each in survivors(archive, self.rules) if self._slots(each.candidate.design)]
        first = self._first(parents, archive, rng)
        if first is None:
            return self._founder(rng)
        space = self._space(first.design, rng)
        here, alone = space.at(first.design), (first.hash,)
        if self._chance(KNOWN_CHILDREN, rng):
            genome, words = space.adopt(here, rng)
            return self._child(space, genome, first, alone, f"{words} instead")
        if parents and rng.random() < self.rules.crossover:
            if self._chance(KNOWN_MATES, rng):
                mate, words = space.adopt(here, rng)
                genome, edit = space.cross(here, mate, rng)
                return self._child(space, genome, first, alone, f"{edit}, the second is {words}")
            second = self._winner(parents, rng).candidate
            if second.hash != first.hash:
                mate = self._space(second.design, rng).at(second.design)
                genome, edit = space.cross(here, mate, rng)
                return self._child(space, genome, first, (first.hash, second.hash), edit)
        genome, edit = space.mutate(here, rng)
        return self._child(space, genome, first, alone, edit)

    def _chance(self, share: float, rng: np.random.Generator) -> bool:
        """Return whether a mechanism of the literature takes part, which it does so often."""
        return self.rules.known and rng.random() < share

    def _first(self, parents: Sequence[Standing], archive: Archive, rng: np.random.Generator) -> Candidate[Any] | None:
        """Return whom to edit: a parent, or where any place will do, a good design of the archive if it has one."""
        if self.slot is not None:
            return self._winner(parents, rng).candidate if len(parents) > 1 else None
        return archive.incumbent(rng, suits=lambda design: bool(self._slots(design)))

    def _founder(self, rng: np.random.Generator) -> Candidate[GraphAttention] | None:
        """Return the first design's mechanism after a few edits, or one of the literature; None without a design.

        Every other one also keeps each projection with a probability of its own, so that founders span the costs.
        """
        if self.base is None:
            return None
        space = self._space(self.base, rng)
        genome, edits = space.at(self.base), list[str]()
        if self._chance(KNOWN_FOUNDERS, rng):
            genome, words = space.adopt(genome, rng)
            edits.append(words)
        else:
            for _ in range(1 + int(rng.integers(FIRST_EDITS))):
                genome, words = space.mutate(genome, rng)
                edits.append(words)
        if rng.random() < LEAN_FOUNDERS:
            genome = space.with_projections(genome, keep=float(rng.random()), rng=rng)
            edits.append(f"{', '.join(genome.projections.learned) or 'no projections'} learned")
        edit = f"the first design, {'; '.join(edits)}"
        return Candidate(self.name, genome, space.lower(genome, self.base), (self.base.content_hash(),), edit)

    def _child(
        self, space: AttentionSpace, genome: GraphAttention, first: Candidate[Any], parents: tuple[str, ...], edit: str
    ) -> Candidate[GraphAttention]:
        where = "" if self.slot else f"{short_slot(space.slot)}: "
        return Candidate(self.name, genome, space.lower(genome, first.design), parents, where + edit)

    def _slots(self, design: Design) -> dict[str, bool]:
        found = {path: crossed or self.crossed for path, crossed in attention_slots(design).items()}
        return found if self.slot is None else {path: found[path] for path in [self.slot] if path in found}

    def _space(self, design: Design, rng: np.random.Generator) -> AttentionSpace:
        """Return the space of one slot of a design, drawn evenly."""
        path, crossed = pick(sorted(self._slots(design).items()), rng)
        return self._spaces.setdefault((path, crossed), AttentionSpace(path, crossed=crossed))

    def _behaviour_of(self, design: Design) -> str:
        return " ".join(
            AttentionSpace(path, crossed=crossed).behaviour(design)
            for path, crossed in sorted(self._slots(design).items())
        )

    def _winner(self, parents: Sequence[Standing], rng: np.random.Generator) -> Standing:
        """Return the best of a few parents drawn at random; they stand in order."""
        return parents[int(rng.integers(len(parents), size=self.rules.tournament).min())]


def survivors(archive: Archive, rules: Rules) -> list[Standing]:
    """Return the parents, best first: feasible ones, then by rung, by front, and by crowding."""
    standings = archive.standings(*rules.measured)
    groups: dict[tuple[bool, int], dict[int, Standing]] = {}
    for place, standing in enumerate(standings):
        key = (excess(standing.objectives, rules.limits) > 0, -standing.rung)
        groups.setdefault(key, {})[place] = standing
    found: list[Standing] = []
    for (infeasible, _), group in sorted(groups.items()):
        points = {place: standing.objectives for place, standing in group.items()}
        order = sorted(points, key=lambda place: excess(points[place], rules.limits)) if infeasible else None
        found += [group[place] for place in order or by_front(points, rules.objectives)]
    return found[: rules.population]


def excess(objectives: Mapping[str, float], limits: Mapping[str, float] | None) -> float:
    """Return by what part a point exceeds its limits, summed; 0 for a feasible one."""
    return sum(max(0.0, objectives[name] / limit - 1) for name, limit in (limits or {}).items())
