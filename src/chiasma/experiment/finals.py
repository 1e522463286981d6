"""Train the finalists, the control and the floors once more, equally long, on fresh seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.experiment.driver import Driver, Finished, Work
from chiasma.experiment.plan import FinalPlan
from chiasma.experiment.search_loop import JobMaker, training_key
from chiasma.search.archive import SharedArchive
from chiasma.search.protocols import Standing
from chiasma.train.design import Design

SHARE_OF_EXPECTED = 1.7
# Image alone and text alone together cost about what a design of both does.
PART_OF_COST = 0.6


@dataclass(frozen=True)
class ArmDesign:
    """A design that is trained in the finals.

    Attributes:
        candidate: K in ``RUN#K``.
        proposer: Who proposed it.
    """

    name: str
    role: Literal["floor", "control", "finalist"]
    description: str
    candidate: int
    design: Design
    proposer: str = "floor"


@dataclass(frozen=True)
class Training:
    """One final training of an arm, kept on disk.

    Attributes:
        folder: Where the worker left the checkpoint and the predictions on select.
        round: Which fresh seed, or -1 for a training of the search.
    """

    folder: Path
    round: int
    outcome: Scored
    seconds: float

    @property
    def error(self) -> float:
        """Return the error on select."""
        return self.outcome.objectives["error"]


@dataclass(frozen=True)
class TrainedArm:
    """An arm with its trainings, one a fresh seed."""

    arm: ArmDesign
    trainings: tuple[Training, ...]

    @property
    def error(self) -> float:
        """Return the mean error on select."""
        return float(np.mean([training.error for training in self.trainings]))

    @property
    def best(self) -> Training:
        """Return the training with the lowest error on select; the one that is shipped."""
        return min(self.trainings, key=lambda training: training.error)


def final_arms(
    archive: SharedArchive, floors: Sequence[ArmDesign], *, numbers: Mapping[str, int], control: str, finalists: int
) -> list[ArmDesign]:
    """Return who is trained in the finals: the best designs, the control's best, and every floor.

    Finalists reached the last rung, unless nothing did; the lower error comes first. A floor that is among the best is
    an arm already.
    """
    floor_hashes = {arm.design.content_hash() for arm in floors}
    standings = sorted(archive.standings(), key=lambda s: (-s.rung, s.objectives["error"], numbers[s.candidate.hash]))
    searched = [s for s in standings if s.candidate.hash not in floor_hashes]
    highest = [s for s in searched if s.rung == searched[0].rung]
    arms = [_arm(f"finalist {place + 1}", "finalist", s, numbers) for place, s in enumerate(highest[:finalists])]
    taken = {arm.candidate for arm in arms}
    controls = [s for s in searched if s.candidate.proposer == control]
    if controls and numbers[controls[0].candidate.hash] not in taken:
        arms.append(_arm("random search", "control", controls[0], numbers))
    return [*arms, *floors]


def _arm(name: str, role: Literal["control", "finalist"], standing: Standing, numbers: Mapping[str, int]) -> ArmDesign:
    candidate = standing.candidate
    description = f"#{numbers[candidate.hash]}, by {candidate.proposer}: {candidate.edit}"
    return ArmDesign(name, role, description, numbers[candidate.hash], candidate.design, candidate.proposer)


def train_finals(
    driver: Driver,
    arms: Sequence[ArmDesign],
    plan: FinalPlan,
    *,
    costs: Mapping[int, float],
    make_job: JobMaker,
    seed: int,
    rung: int,
    folder: Path,
    finish_by: float | None,
) -> list[TrainedArm]:
    """Train every arm once a round, the expensive ones first, and return those with at least one training.

    Later rounds that did not end in time are left out for all arms, so that seeds stay paired.

    Raises:
        StopRequestedError: The user asked to stop.
    """
    order = sorted(arms, key=lambda arm: (-costs.get(arm.candidate, 0.0), arm.candidate))
    found: dict[str, dict[int, Training]] = {arm.name: {} for arm in arms}
    places: dict[str, tuple[str, int, Path]] = {}
    for round_ in range(plan.rounds):
        for arm in order:
            kept = folder / f"{arm.candidate}-{round_}"
            job = make_job(
                key=training_key("final", arm.candidate, round_, plan.fraction),
                design=arm.design,
                seed=derive_seed(seed, "final", round_),
                fraction=plan.fraction,
                rung=rung,
                keep=kept,
            )
            places[job.key] = (arm.name, round_, kept)
            share = SHARE_OF_EXPECTED * plan.fraction * costs[arm.candidate] + 1.0 if arm.candidate in costs else None
            driver.submit(Work(job, arm.candidate, "final", until=finish_by, share_seconds=share))
    for finished in driver.finish_all(finish_by):
        name, round_, kept = places[finished.work.job.key]
        if isinstance(finished.outcome, Scored):
            found[name][round_] = Training(kept, round_, finished.outcome, finished.seconds)
    complete = complete_rounds({name: set(rounds) for name, rounds in found.items()})
    return [
        TrainedArm(arm, tuple(found[arm.name][r] for r in sorted(found[arm.name]) if r in complete))
        for arm in arms
        if found[arm.name].keys() & complete
    ]


def complete_rounds(rounds: Mapping[str, set[int]]) -> set[int]:
    """Return the rounds that all arms finished; where there is none, those that most arms finished.

    An arm that never finished, because it was rejected, does not spoil the others' rounds.
    """
    present = [found for found in rounds.values() if found]
    if not present:
        return set()
    everyone = set.intersection(*present)
    if everyone:
        return everyone
    counts = {round_: sum(round_ in found for found in present) for round_ in set.union(*present)}
    most = max(counts.values())
    return {min(round_ for round_, count in counts.items() if count == most)}


def expected_costs(arms: Sequence[ArmDesign], known: Mapping[int, float], *, unknown: float) -> list[float]:
    """Return the expected seconds of a full training of each arm.

    Args:
        arms: Who is to be trained.
        known: Measured, by candidate.
        unknown: For an arm that was not trained and shares no encoders with one that was.
    """

    def cost(arm: ArmDesign) -> float:
        if arm.candidate in known:
            return known[arm.candidate]
        parts = arm.design.model.encoders.items()
        wholes = [
            known[each.candidate]
            for each in arms
            if each.candidate in known and parts <= each.design.model.encoders.items()
        ]
        return PART_OF_COST * min(wholes) if wholes else unknown

    return [cost(arm) for arm in arms]


def full_cost(finished: Sequence[Finished]) -> dict[int, float]:
    """Return the expected seconds of a full training of each candidate, from its longest one so far."""
    costs: dict[int, tuple[float, float]] = {}
    for item in finished:
        number, fraction = item.work.candidate, item.work.job.fraction
        if number is not None and isinstance(item.outcome, Scored) and fraction >= costs.get(number, (0.0, 0.0))[0]:
            trained = item.outcome.metrics.get("train_seconds", item.seconds)
            costs[number] = (fraction, trained / fraction + item.seconds - trained)
    return {number: cost for number, (_, cost) in costs.items()}
