"""The front of a search with several objectives: judged again on fresh seeds, with intervals, as one JSON value."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from chiasma.core.spec import Spec
from chiasma.evaluate.job import on_task
from chiasma.experiment.finals import TrainedArm
from chiasma.experiment.judging import Judging
from chiasma.experiment.results import Interval
from chiasma.experiment.statistics import verdict
from chiasma.search.attention_space import slot_named
from chiasma.search.nsga2 import excess
from chiasma.search.pareto import hypervolume, non_dominated

Standing = Literal["ahead", "behind", "level"]
"""What a gain's interval says on the rows that also chose the mechanism; only a benchmark has verdicts."""
STANDINGS: Mapping[str, Standing] = {"better": "ahead", "worse": "behind", "no difference": "level"}


class Described(Spec):
    """How a part of a design reads.

    Attributes:
        formula: What it computes, and which projections are left out.
        known: What the literature calls it, or what it is a variant of; empty for what nobody described.
        part: The spec that a config takes.
    """

    formula: str
    known: str = ""
    part: Mapping[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _of_a_version_that_knew_attention_alone(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "attention" in data:
            data = {**data, "part": data["attention"]}
            del data["attention"]
        return data


class Compared(Spec):
    """A score, and what it is compared with the standard part.

    Attributes:
        score: The metric on select, averaged over fresh seeds, with its interval over groups and seeds.
        gain: The metric's gain over the standard, paired by example and seed; None for the standard itself.
        standing: What the gain's interval says.
    """

    score: Interval
    gain: Interval | None = None
    standing: Standing | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "verdict" in data:
            data = {**data, "standing": STANDINGS.get(data["verdict"])}
            del data["verdict"]
        return data


class Elsewhere(Compared):
    """One mechanism on a further task.

    Attributes:
        metric: The task's.
    """

    metric: str


class Mechanism(Described, Compared):
    """One mechanism, or another part of a design, as it was judged.

    Attributes:
        name: That of a baseline, such as ``standard``, or ``#K`` for candidate K of the run.
        candidate: K in ``RUN#K``.
        objectives: Means over fresh seeds; who was not trained on all of them is compared on those that were shared.
        seeds: Fresh seeds.
        on_front: No other judged mechanism dominates it.
        edit: How it came to be.
        feasible: It is within the limits of the search.
        diverged: Trainings on fresh seeds that were rejected; the figures are of the others, and there is no standing.
        elsewhere: The same on further tasks, by their names.
    """

    name: str
    candidate: int
    objectives: Mapping[str, float]
    seeds: int
    on_front: bool
    edit: str = ""
    feasible: bool = True
    diverged: int = 0
    elsewhere: Mapping[str, Elsewhere] = {}


class Unjudged(Described):
    """What is on the front of the search itself and was not trained on fresh seeds.

    Attributes:
        objectives: As the search measured them, on the seed that selected it.
    """

    name: str
    candidate: int
    objectives: Mapping[str, float]


class Front(Spec):
    """What ``search attention`` or ``search fusion`` found; the content of ``pareto_front.json``.

    Attributes:
        slot: The place that was searched, as ``search.slot`` names it.
        standard: Name of the baseline that gains are measured against.
        around: The setting of the encoder or fusion that the slot belongs to; empty where there is none.
        mechanisms: The baselines, then what was judged, lowest error first.
        fresh: They were judged on seeds that did not select them; else the figures are the search's own.
        trained: Part of their epochs that all of them were trained; None in fronts of older versions.
        unjudged: The rest of the search's own front.
        reference: The point from which the hypervolume is measured: the worst of the baselines, and a tenth more.
        hypervolume: Of the judged front.
        attention_matters: Standard attention's gain over the mean of the values; None where it was not measured.
        chance: The metric of the most frequent answer on select; None where that defines none.
        above_chance: Any mechanism is shown to be better than that; None where that is unknown.
        lost: Who was to be judged and could not be trained on any fresh seed.
        rejections: Trainings that were not scored, by stage and reason.
        refused: Edits that made no sense and never became candidates, by reason.
        duplicates_saved: Children that were not trained, because an equal one had been.
        rungs: Rank correlation between neighbouring rungs: ``lower, upper, pairs, spearman``.
        history: After each generation ``generation, candidates, seconds, hypervolume, front``.
        gains: By how much each proposer lowered the lowest error on select, of what stood before it.
        proposing: How those who proposed did, such as what a language model wrote and cost; may be empty.
        notes: Plain sentences that a reader must know.
    """

    run: str
    source: str
    slot: str
    standard: str = "standard"
    around: str = ""
    metric: str
    objectives: tuple[str, ...]
    mechanisms: tuple[Mechanism, ...]
    reference: tuple[float, ...]
    hypervolume: float
    fresh: bool = True
    trained: float | None = None
    unjudged: tuple[Unjudged, ...] = ()
    attention_matters: Interval | None = None
    chance: float | None = None
    above_chance: bool | None = None
    lost: tuple[str, ...] = ()
    rejections: Mapping[str, int] = {}
    refused: Mapping[str, int] = {}
    duplicates_saved: int = 0
    candidates: int = 0
    trainings: int = 0
    seconds: float = 0.0
    budget: str = ""
    rungs: tuple[Mapping[str, Any], ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    gains: Mapping[str, float] = {}
    proposing: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()

    def named(self, name: str) -> Mechanism | None:
        """Return one mechanism by name, or None."""
        return next((each for each in self.mechanisms if each.name == name), None)

    def use(self, name: str) -> str:
        """Return the settings that put a mechanism where it was found."""
        return f"{self.around} {slot_named(self.slot)}={self.run}{name}".strip()

    @property
    def costs(self) -> list[str]:
        """Return the objectives that are not errors."""
        return [name for name in self.objectives if not name.startswith("error")]

    @property
    def companions(self) -> list[str]:
        """Return the further tasks."""
        return [name.partition("@")[2] for name in self.objectives if name.startswith(on_task("error", ""))]

    @property
    def discovered(self) -> list[Mechanism]:
        """Return the mechanisms that are no baselines."""
        return [each for each in self.mechanisms if each.name.startswith("#")]

    @property
    def best(self) -> Mechanism | None:
        """Return the discovered mechanism within the limits with the lowest error, or None where none was judged."""
        return min(
            (each for each in self.discovered if each.feasible), key=lambda each: each.objectives["error"], default=None
        )


def judged(
    arms: Sequence[TrainedArm],
    judgings: Sequence[Judging],
    *,
    objectives: Sequence[str],
    describe: Callable[[TrainedArm], Described],
    standard: str,
    limits: Mapping[str, float] | None = None,
    diverged: Mapping[str, int] | None = None,
    fresh: bool = True,
) -> tuple[Mechanism, ...]:
    """Return every arm as a mechanism, baselines first, then by error; the first judge is the search's own task's.

    Args:
        arms: What was trained.
        judgings: One a task.
        objectives: What is minimised.
        describe: Says how an arm's part reads.
        standard: Name of the arm that gains are measured against.
        limits: The most of an objective that is feasible.
        diverged: Rejected trainings by arm.
        fresh: The seeds did not select the arms; else nobody is ahead.
    """
    against = next((arm for arm in arms if arm.arm.name == standard), None)
    feasible = [not excess({name: _mean(arm, name) for name in limits or {}}, limits) for arm in arms]
    front = on_front(arms, objectives, feasible)
    points = comparable(arms, objectives)
    found = [
        _mechanism(
            arm, judgings, standard=against, part=describe(arm), objectives=dict(zip(objectives, point, strict=True))
        ).model_copy(
            update={
                "on_front": arm.arm.name in front,
                "feasible": within,
                "diverged": (diverged or {}).get(arm.arm.name, 0),
            }
        )
        for arm, within, point in zip(arms, feasible, points, strict=True)
    ]
    found = [each if fresh and not each.diverged else _without_standing(each) for each in found]
    return tuple(sorted(found, key=lambda each: (each.name.startswith("#"), each.objectives["error"])))


def on_front(arms: Sequence[TrainedArm], objectives: Sequence[str], feasible: Sequence[bool]) -> set[str]:
    """Return the names of the feasible arms that no other dominates, by comparable means over seeds."""
    within = [arm for arm, here in zip(arms, feasible, strict=True) if here]
    if not within:
        return set()
    points = comparable(within, objectives)
    return {arm.arm.name for arm, here in zip(within, non_dominated(np.array(points)), strict=True) if here}


def comparable(arms: Sequence[TrainedArm], objectives: Sequence[str]) -> list[list[float]]:
    """Return the mean objectives of arms as if all had been trained on all seeds.

    Who is certainly worse is trained on fewer seeds, and seeds differ in how kind they are. Each result is therefore
    taken as the arm's own part plus the seed's, by least squares; arms with all seeds keep their plain means.
    """
    columns = [_effects(arms, name) for name in objectives]
    return [list(point) for point in zip(*columns, strict=True)]


def _effects(arms: Sequence[TrainedArm], name: str) -> list[float]:
    seeds = sorted({training.round for arm in arms for training in arm.trainings})
    rows: list[np.ndarray] = []
    values: list[float] = []
    for place, arm in enumerate(arms):
        for training in arm.trainings:
            row = np.zeros(len(arms) + len(seeds))
            row[[place, len(arms) + seeds.index(training.round)]] = 1.0
            rows.append(row)
            values.append(training.outcome.objectives[name])
    if not rows:
        return []
    middle = float(np.mean(values))
    found = np.linalg.lstsq(np.array(rows), np.array(values) - middle, rcond=None)[0]
    return (middle + found[: len(arms)] + found[len(arms) :].mean()).tolist()


def _without_standing(mechanism: Mechanism) -> Mechanism:
    elsewhere = {name: each.model_copy(update={"standing": None}) for name, each in mechanism.elsewhere.items()}
    return mechanism.model_copy(update={"standing": None, "elsewhere": elsewhere})


def volume_of(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Return the dominated part of the box between nought and the reference point."""
    scale = np.array(reference, dtype=float)
    return hypervolume(np.array(points, dtype=float).reshape(-1, len(scale)) / scale, np.ones(len(scale)).tolist())


def uncertain(arms: Sequence[TrainedArm], judging: Judging) -> set[str]:
    """Return the arms whose place among the others is not certain: a neighbour in error may be better or worse."""
    errors = comparable(arms, [judging.objective])
    ordered = [arm for _, arm in sorted(zip(errors, arms, strict=True), key=lambda each: each[0])]
    found: set[str] = set()
    for first, second in itertools.pairwise(ordered):
        gain = judging.gain(first, second)
        if gain is None or gain.low <= 0 or min(len(first.trainings), len(second.trainings)) < 2:
            found |= {first.arm.name, second.arm.name}
    return found


def _mechanism(
    arm: TrainedArm,
    judgings: Sequence[Judging],
    *,
    standard: TrainedArm | None,
    part: Described,
    objectives: Mapping[str, float],
) -> Mechanism:
    baseline = arm.arm.role == "floor"
    here, *others = (_measured(arm, each, standard=standard) for each in judgings)
    return Mechanism(
        name=arm.arm.name,
        candidate=arm.arm.candidate,
        formula=part.formula,
        known="" if baseline else part.known,
        part=part.part,
        objectives=objectives,
        score=here.score,
        gain=here.gain,
        standing=here.standing,
        seeds=len(arm.trainings),
        on_front=False,
        edit="" if baseline else arm.arm.description,
        elsewhere={judging.task: found for judging, found in zip(judgings[1:], others, strict=True)},
    )


def _measured(arm: TrainedArm, judging: Judging, *, standard: TrainedArm | None) -> Elsewhere:
    gain = None if standard is None or arm is standard else judging.gain(arm, standard)
    said = None if gain is None else STANDINGS[verdict(gain)]
    return Elsewhere(metric=judging.metric, score=judging.score(arm), gain=gain, standing=said)


def _mean(arm: TrainedArm, name: str) -> float:
    return float(np.mean([training.outcome.objectives[name] for training in arm.trainings]))
