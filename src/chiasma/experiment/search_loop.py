"""The visible loop of search: ask, train up the ladder, tell.

Two generations are under way at a time, so that no worker waits for the slowest training of one. A generation is asked
for when the one before the last has been told, and generations are told in order: what is proposed depends on recorded
rows alone, not on the order in which results arrive or on the number of workers.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.evaluate.job import Job
from chiasma.evaluate.ladder import Ladder, Ranking, RungRow, by_error, promote
from chiasma.experiment.driver import Driver, Finished, Work
from chiasma.search.archive import SharedArchive
from chiasma.search.protocols import Allocator, Candidate, Evaluation, Proposer, Spend
from chiasma.train.devices import one_thread

UNDER_WAY = 2

JobMaker = Callable[..., Job]


@dataclass
class Generation:
    """Candidates that were asked for together, and what is known of them.

    Attributes:
        waiting: Keys of trainings that have not ended.
        again: By key, the older candidate that is trained on another seed beside them.
    """

    number: int
    candidates: dict[int, Candidate[Any]]
    rung: int = 0
    waiting: set[str] = field(default_factory=set)
    again: dict[str, Candidate[Any]] = field(default_factory=dict[str, Candidate[Any]])
    finished: list[tuple[int, Finished]] = field(default_factory=list)

    @property
    def rows(self) -> list[RungRow]:
        """Return the recorded trainings as promotion sees them."""
        return [RungRow(number, item.work.job.rung, item.outcome) for number, item in self.finished]

    @property
    def done(self) -> bool:
        """Return whether nothing more will be trained."""
        return not self.waiting

    @property
    def climbs(self) -> bool:
        """Return whether all of its own candidates have been trained on this rung."""
        return self.waiting <= self.again.keys()


@dataclass(frozen=True)
class Point:
    """One step of the anytime curve."""

    seconds: float
    candidates: int
    error: float
    proposer: str


def training_key(purpose: str, candidate: int, place: int, fraction: float) -> str:
    """Return a job's identity: with another length of training, under a larger budget, it is another job.

    Args:
        place: Rung of the ladder, or round of the finals.
    """
    return f"{purpose}/{candidate}/{place}/{fraction:.4g}"


class SearchLoop:
    """Runs generations until the budget of trials is spent or it is told to close.

    Args:
        driver: Carries out trainings.
        archive: Shared by all proposers; the floors are in it already.
        proposers: By name.
        allocator: Chooses who makes the next candidate.
        ladder: Lengths of training.
        top: Part of a design's own epochs on the ladder's last rung.
        generation: Candidates asked for together.
        trials: Most candidates; None where time decides.
        seed: The run's seed.
        make_job: Makes the job of a design from ``key, design, seed, fraction, rung``.
        limit_seconds: How long a training of a part of a design's epochs may take; None for no limit.
        until: Seconds after the run's start at which trainings are cut and forgotten; None where trials decide.
        ranking: Decides who climbs the ladder.
        again: Returns designs of the archive that should be trained on another seed; each generation trains the first.
        inherit: Returns the folder of the kept training whose weights a candidate begins with, or None.
        progress: Returns what else is said after each generation, given the seconds at which its last training ended.
    """

    def __init__(
        self,
        driver: Driver,
        archive: SharedArchive,
        *,
        proposers: Mapping[str, Proposer[Any]],
        allocator: Allocator,
        ladder: Ladder,
        top: float,
        generation: int,
        trials: int | None,
        seed: int,
        make_job: JobMaker,
        limit_seconds: Callable[[float], float | None] = lambda fraction: None,
        until: float | None = None,
        ranking: Ranking = by_error,
        again: Callable[[], Sequence[Candidate[Any]]] = tuple,
        inherit: Callable[[Candidate[Any]], Path | None] = lambda candidate: None,
        progress: Callable[[float], str] = lambda seconds: "",
    ) -> None:
        self.again = again
        self.inherit = inherit
        self.ranking = ranking
        self.progress = progress
        self.limit_seconds = limit_seconds
        self.until = until
        self.driver = driver
        self.archive = archive
        self.proposers = proposers
        self.allocator = allocator
        self.ladder = ladder
        self.top = top
        self.generation = generation
        self.trials = trials
        self.seed = seed
        self.make_job = make_job
        self.ledger: list[Spend] = []
        self.rows: list[RungRow] = []
        self.anytime: list[Point] = []
        self._ended = 0.0
        self._turns = 0
        self.asked = 0
        self.finished: list[Finished] = []
        self._numbered = 0
        self._active: list[Generation] = []
        self._exhausted = False
        self._own: set[int] = set()

    @property
    def trained(self) -> int:
        """Return how many candidates have been trained, for however long."""
        return len({row.candidate for row in self.rows} & self._own)

    @property
    def duplicates(self) -> int:
        """Return how many candidates were not trained because an equal one had been."""
        return sum(proposer.duplicates for proposer in self.proposers.values())

    @property
    def gains(self) -> dict[str, float]:
        """Return by how much each proposer lowered the lowest error on the last rung, of what stood before."""
        made: dict[str, list[float]] = {name: [] for name in self.proposers}
        for spend in self.ledger:
            made.setdefault(spend.proposer, []).append(spend.gain)
        return {name: math.fsum(gains) for name, gains in made.items()}

    @property
    def refused(self) -> Counter[str]:
        """Return how many edits made no sense and never became candidates, by reason."""
        return sum((proposer.refused for proposer in self.proposers.values()), Counter[str]())

    def run(self, close: Callable[[], bool]) -> None:
        """Search until the trials are spent, the space is exhausted, or ``close()`` says that time is up.

        Raises:
            StopRequestedError: The user asked to stop.
        """
        self._start_generations()
        while self._active:
            finished = self.driver.next()
            if finished is not None:
                self._note(finished)
            elif close():
                return

    def settle(self) -> None:
        """Keep what the unfinished generations found, after the search was closed or interrupted."""
        while self._active:
            self._tell(self._active.pop(0))

    def _start_generations(self) -> None:
        while len(self._active) < UNDER_WAY and not self._exhausted:
            wanted = self.generation if self.trials is None else min(self.generation, self.trials - self.asked)
            candidates = self._ask(wanted) if wanted > 0 else {}
            if not candidates:
                self._exhausted = True
                return
            generation = Generation(self._numbered, candidates)
            self._active.append(generation)
            self._numbered += 1
            self.asked += len(candidates)
            self._own |= candidates.keys()
            self._train(generation, list(candidates))
            self._train_again(generation)

    def _ask(self, count: int) -> dict[int, Candidate[Any]]:
        """Ask for candidates one by one, so that each is charged to the proposer before the next is chosen."""
        under_way = [c.proposer for generation in self._active for c in generation.candidates.values()]
        ledger = [*self.ledger, *(Spend(name, 0.0, 0.0) for name in under_way)]
        found: dict[int, Candidate[Any]] = {}
        # A proposer may have nothing to build on yet: its turn goes to another.
        for _ in range(count + len(self.proposers)):
            if len(found) == count:
                break
            name = self._turn(ledger)
            ledger.append(Spend(name, 0.0, 0.0))
            with one_thread():
                asked = self.proposers[name].ask(1, self.archive)
            for candidate in asked:
                if not self._is_under_way(candidate.hash, found):
                    found[self._record(candidate)] = candidate
        return found

    def _turn(self, ledger: Sequence[Spend]) -> str:
        """Return who makes the next candidate; where measured seconds decide that, a repetition takes what they did."""
        if self.trials is not None:
            return self.allocator.next(ledger)
        self._turns += 1
        name = f"turn {self._turns}"
        chosen = self.driver.decide(name, lambda: {"proposer": self.allocator.next(ledger)}, repeated=True)["proposer"]
        return chosen if chosen in self.proposers else self.allocator.next(ledger)

    def _is_under_way(self, hash: str, fresh: Mapping[int, Candidate[Any]]) -> bool:
        groups = [fresh, *(generation.candidates for generation in self._active)]
        return any(candidate.hash == hash for group in groups for candidate in group.values())

    def _record(self, candidate: Candidate[Any]) -> int:
        return self.driver.store.add_candidate(
            candidate.hash,
            proposer=candidate.proposer,
            generation=self._numbered,
            genome=candidate.genome.to_dict(),
            design=candidate.design.to_dict(),
            parents=candidate.parents,
            edit=candidate.edit,
        )

    def _train(self, generation: Generation, numbers: Sequence[int]) -> None:
        rung = generation.rung
        for number in numbers:
            self._submit(generation, number, generation.candidates[number], rung, derive_seed(self.seed, "rung", rung))

    def _train_again(self, generation: Generation) -> None:
        """Train one design of the archive on a seed of its own, unless that is under way."""
        under_way = {each.hash for active in self._active for each in active.again.values()}
        chosen = next((each for each in self.again() if each.hash not in under_way), None)
        row = None if chosen is None else self.driver.store.by_hash(chosen.hash)
        if chosen is None or row is None:
            return
        top = self.ladder.top
        seeds = len([each for each in self.archive.by_hash(chosen.hash) if each.rung == top])
        seed = derive_seed(self.seed, "rung", top, "again", seeds)
        key = self._submit(generation, row.number, chosen, top, seed, purpose=f"again-{seeds}")
        generation.again[key] = chosen

    def _submit(
        self,
        generation: Generation,
        number: int,
        candidate: Candidate[Any],
        rung: int,
        seed: int,
        *,
        purpose: str = "search",
    ) -> str:
        fraction = self.ladder.rungs[rung].fraction * self.top
        job = self.make_job(
            key=training_key(purpose, number, rung, fraction),
            design=candidate.design,
            seed=seed,
            fraction=fraction,
            rung=rung,
            start=self.inherit(candidate),
            time_limit_seconds=self.limit_seconds(fraction),
        )
        generation.waiting.add(job.key)
        # An older generation goes first: what it will teach is waited for.
        turn = generation.number
        self.driver.submit(Work(job, number, "search", until=self.until, whole_or_nothing=True, turn=turn))
        return job.key

    def _note(self, finished: Finished) -> None:
        generation = next(g for g in self._active if finished.work.job.key in g.waiting)
        generation.waiting.discard(finished.work.job.key)
        self.finished.append(finished)
        self.driver.console.status(self._under_way())
        assert finished.work.candidate is not None
        generation.finished.append((finished.work.candidate, finished))
        own = finished.work.job.key not in generation.again
        if own and generation.climbs and generation.rung < self.ladder.top:
            climbing = promote(generation.rows, rung=generation.rung, eta=self.ladder.eta, ranking=self.ranking)
            generation.rung += 1
            self._train(generation, sorted(climbing))
        while self._active and self._active[0].done:
            self._tell(self._active.pop(0))
            # Ask before the next one is told, even if it has ended: what it knows must not depend on who was faster.
            self._start_generations()

    def _tell(self, generation: Generation) -> None:
        """Archive a generation in candidate order, charge its proposers, and let them learn."""
        told: dict[str, list[Evaluation[Any]]] = {}
        by_candidate: dict[int, list[Finished]] = {number: [] for number in generation.candidates}
        for number, finished in generation.finished:
            repeated = generation.again.get(finished.work.job.key)
            if repeated is None:
                by_candidate[number].append(finished)
            else:
                self._archive(repeated, number, finished, told)
        for number, candidate in sorted(generation.candidates.items()):
            before = self._best_error()
            items = sorted(by_candidate[number], key=lambda item: item.work.job.rung)
            for item in items:
                self._archive(candidate, number, item, told)
            after = self._best_error()
            gain = max(0.0, before - after) if before is not None and after is not None else 0.0
            self.ledger.append(Spend(candidate.proposer, sum(self._charge(item) for item in items), gain))
            if after is not None and (before is None or after < before):
                moment = max(item.elapsed for item in items)
                self.anytime.append(Point(moment, len(self.ledger), after, candidate.proposer))
        for name, evaluations in told.items():
            if name in self.proposers:
                self.proposers[name].tell(evaluations)
        self._say(generation)

    def _archive(
        self, candidate: Candidate[Any], number: int, item: Finished, told: dict[str, list[Evaluation[Any]]]
    ) -> None:
        job = item.work.job
        evaluation = Evaluation(candidate, item.outcome, job.rung, job.seed, item.seconds)
        self.archive.add(evaluation)
        self.rows.append(RungRow(number, job.rung, item.outcome))
        told.setdefault(candidate.proposer, []).append(evaluation)

    def _charge(self, finished: Finished) -> float:
        """Return what a training costs its proposer: seconds, or under a budget of trials operations, which repeat."""
        if self.trials is None:
            return finished.seconds
        if not isinstance(finished.outcome, Scored):
            return 0.0
        metrics, design = finished.outcome.metrics, finished.work.job.design
        return metrics.get("flops", 1.0) * metrics.get("steps", 1.0) * design.training.loop.batch_size

    def _best_error(self) -> float | None:
        """Return the lowest error on the ladder's last rung, where scores can be compared."""
        found = [s.objectives["error"] for s in self.archive.standings() if s.rung >= self.ladder.top]
        return min(found, default=None)

    def _under_way(self) -> str:
        """Return what is going on now, for a line that is drawn over."""
        elapsed = self.driver.clock.elapsed()
        left = "" if self.until is None else f", {max(0.0, self.until - elapsed):.0f} s of search left"
        numbers = " and ".join(str(each.number + 1) for each in self._active)
        waiting = sum(len(each.waiting) for each in self._active)
        return f"generation {numbers}: {len(self.finished)} trainings done, {waiting} under way or waiting{left}"

    def _say(self, generation: Generation) -> None:
        scored = sum(isinstance(item.outcome, Scored) for _, item in generation.finished)
        best = self._best_error()
        shown = "nothing on the last rung yet" if best is None else f"lowest error on select {best:.4f}"
        gains = " and ".join(f"{gain:.4f} by {name}" for name, gain in self.gains.items() if gain > 0)
        shown += f", lowered {gains}" if gains else ""
        # What ended meanwhile of a later generation differs between a run and its resumption.
        self._ended = max([self._ended, *(item.elapsed for _, item in generation.finished)])
        more = self.progress(self._ended) if generation.finished else ""
        self.driver.console.say(
            f"generation {generation.number + 1}: {len(generation.candidates)} candidates, {scored} of "
            f"{len(generation.finished)} trainings scored; {shown}; {more and more + '; '}"
            f"{self.driver.clock.elapsed():.0f} s"
        )
