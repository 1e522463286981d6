"""What a benchmark measured: the arms of each task on its sealed test split, and what a reader must know."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from pydantic import field_validator

from chiasma.core.spec import Spec
from chiasma.experiment.arms import contestant_of, contestant_of_floor
from chiasma.experiment.config import RunConfig
from chiasma.experiment.design_words import fusion_words
from chiasma.experiment.finals import ArmDesign, TrainedArm
from chiasma.experiment.floor_thread import ClassicalFloors
from chiasma.experiment.floors import ClassicalFloor
from chiasma.experiment.report.wording import difference
from chiasma.experiment.results import Gain, Interval
from chiasma.experiment.sealed import open_test, opening_words
from chiasma.experiment.setting import Setting
from chiasma.experiment.statistics import Bootstrap
from chiasma.model.fusion import FusionSpec
from chiasma.model.graph.attention import GraphAttention
from chiasma.search.attention_space import short_slot
from chiasma.store.folders import ledger_folder

CANDIDATE = "candidate"
POOR_MATCH = 0.05
OUTCOMES = {
    "better": "beats the one without it",
    "worse": "does not beat the one without it, but is behind it",
    "no difference": "does not beat the one without it: no difference can be shown",
}
"""What an ablation says of a part, by verdict."""
SAME_TIME = 0.1
"""Part by which arms may differ in time and still be said to have had the same."""
ArmName = Literal["standard", "matched_flops", "matched_size", "mean", "concat", "cross_attention", "champion"]
Part = Literal["growth", "controller"]


class BenchmarkArm(Spec):
    """One attention, fusion or training on one task, over all seeds.

    Attributes:
        name: ``candidate``; of an attention ``standard``, ``matched_flops``, ``matched_size``, ``mean``; of a fusion
            ``concat``, ``cross_attention``, ``champion``; ``without_growth``, ``without_controller``; or a classical
            floor.
        dim: Width of the model; None for a classical floor.
        test: The metric on the test split with its interval over groups and seeds; None where no training succeeded.
        diverged: Seeds on which it could not be trained; it is then compared with nothing.
        train_seconds: Mean time of one training; None where none succeeded, and for a classical floor.
        gain: The candidate's gain over this arm, paired; None for the candidate.
        same_as: The arm whose trainings this one shares, because it is the same design.
    """

    name: str
    description: str
    dim: int | None = None
    parameters: int | None = None
    flops: float | None = None
    seconds: float = 0.0
    train_seconds: float | None = None
    seeds: int = 1
    diverged: int = 0
    test: Interval | None
    gain: Gain | None = None
    same_as: str | None = None


class TaskResult(Spec):
    """One task: its arms, and what a reader must know about its test split.

    Attributes:
        opening: How often this test split had been opened before.
        unfitted: Classical floors that could not be fitted, and why.
        attention_matters: Standard attention's gain over the mean of the values; None where that was no arm.
    """

    task: str
    source: str
    slot: str
    metric: str
    test_examples: int
    opening: int
    truncated: str = ""
    unfitted: tuple[str, ...] = ()
    attention_matters: Interval | None = None
    arms: tuple[BenchmarkArm, ...]


class Benchmark(Spec):
    """Everything that was measured; the content of ``benchmark.json``."""

    run: str
    candidate: str
    formula: str
    seeds: int
    tasks: tuple[TaskResult, ...]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class Order(Spec):
    """What a benchmark was asked for; recorded, so that a resume does the same.

    Attributes:
        reference: How the user named the candidate.
        attention: The candidate's attention; None where something else is asked about.
        fusion: The candidate's fusion; None where something else is asked about.
        tasks: Settings of each task by name.
        seeds: Trainings of every arm on every task.
        arms: What an attention or a fusion is compared with.
        ablate: Parts of the training, each of which is left out of an arm of its own.
    """

    reference: str
    attention: GraphAttention | None = None
    fusion: FusionSpec | None = None
    tasks: Mapping[str, RunConfig]
    seeds: int
    arms: tuple[ArmName, ...] = ()
    ablate: tuple[Part, ...] = ()

    @field_validator("ablate")
    @classmethod
    def _distinct(cls, value: tuple[Part, ...]) -> tuple[Part, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"each part is named once, but got {', '.join(value)}")
        return value

    @property
    def formula(self) -> str:
        """Return the candidate's attention or fusion in words, or what is asked about."""
        if self.attention is not None:
            return self.attention.words
        if self.fusion is not None:
            return fusion_words(self.fusion)
        return f"with and without {' and '.join(self.ablate)}"


@dataclass(frozen=True)
class BenchmarkTask:
    """A task with its arms recorded.

    Attributes:
        same: Arms that are the same design as another one, which is trained for both.
        slot: Where the mechanisms stand; empty where none is compared.
    """

    name: str
    setting: Setting
    arms: tuple[ArmDesign, ...]
    same: Mapping[str, str]
    slot: str


def judge_task(task: BenchmarkTask, trained: Mapping[str, TrainedArm], order: Order) -> TaskResult:
    """Open the task's test split once for all arms."""
    setting, dataset = task.setting, task.setting.dataset
    with ClassicalFloors(dataset, seed=setting.config.run.seed) as classical:
        classical.start()
        floors = classical.fitted()
        unfitted = tuple(classical.missing())
    rows, before = open_test(
        dataset, ledger_folder=ledger_folder(), run=f"{setting.store.id}, {task.name}", verb="benchmark", once=True
    )
    setting.console.say(f"{task.name}: {opening_words(before)}")
    evaluate = setting.config.evaluate
    bootstrap = Bootstrap.over(
        dataset, rows, level=evaluate.level, resamples=evaluate.resamples, seed=setting.config.run.seed
    )
    outputs = _outputs(setting, trained, floors, rows)
    whole = {name for name, arm in trained.items() if len(arm.trainings) == order.seeds}
    paired = {name: outputs[name] for name in (*whole, *(f.name for f in floors))}
    arms = [_arm(arm, order.seeds, outputs, paired, bootstrap, setting.metric) for arm in trained.values()]
    arms += [_floor(f.name, f.description, f.seconds, paired, bootstrap, setting.metric) for f in floors]
    shared = {arm.name: arm for arm in arms}
    arms += [shared[twin].model_copy(update={"name": name, "same_as": twin}) for name, twin in task.same.items()]
    cut = [f"{count:,} {words}" for words, count in setting.data_report.counts.items() if words.startswith("texts cut")]
    return TaskResult(
        task=task.name,
        source=dataset.source,
        slot=short_slot(task.slot) if task.slot else "",
        metric=setting.metric,
        test_examples=len(rows),
        opening=before,
        truncated="; ".join(cut),
        unfitted=unfitted,
        attention_matters=_matters(task.same, paired, bootstrap, setting.metric),
        arms=tuple(arms),
    )


def _outputs(
    setting: Setting, trained: Mapping[str, TrainedArm], floors: Sequence[ClassicalFloor], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what each arm and floor says of the rows, by name."""
    contestants = {
        name: contestant_of(arm, setting.dataset, metric=setting.metric, winner=False)
        for name, arm in trained.items()
        if arm.trainings
    }
    contestants |= {f.name: contestant_of_floor(f, setting.dataset, metric=setting.metric) for f in floors}
    return {
        name: each.judged(each.outputs(rows, device=setting.config.run.device), setting.metric)
        for name, each in contestants.items()
    }


def _matters(
    same: Mapping[str, str], paired: Mapping[str, np.ndarray], bootstrap: Bootstrap, metric: str
) -> Interval | None:
    standard, mean = (same.get(name, name) for name in ("standard", "mean"))
    if not {standard, mean} <= set(paired):
        return None
    return bootstrap.paired_gain(paired[standard], paired[mean], metric)[0]


def _arm(
    arm: TrainedArm,
    seeds: int,
    outputs: Mapping[str, np.ndarray],
    paired: Mapping[str, np.ndarray],
    bootstrap: Bootstrap,
    metric: str,
) -> BenchmarkArm:
    name = arm.arm.name
    known = {**arm.best.outcome.metrics, **arm.best.outcome.objectives} if arm.trainings else {}
    return BenchmarkArm(
        name=name,
        description=arm.arm.description,
        dim=arm.arm.design.model.dim,
        parameters=int(known["parameters"]) if known else None,
        flops=known.get("flops"),
        seconds=sum(training.seconds for training in arm.trainings),
        train_seconds=fmean(each.outcome.metrics["train_seconds"] for each in arm.trainings) if known else None,
        seeds=len(arm.trainings),
        diverged=seeds - len(arm.trainings),
        test=bootstrap.interval(outputs[name], metric) if name in outputs else None,
        gain=_gain(name, paired, bootstrap, metric),
    )


def _floor(
    name: str, words: str, seconds: float, paired: Mapping[str, np.ndarray], bootstrap: Bootstrap, metric: str
) -> BenchmarkArm:
    test, gain = bootstrap.interval(paired[name], metric), _gain(name, paired, bootstrap, metric)
    return BenchmarkArm(name=name, description=words, seconds=seconds, test=test, gain=gain)


def _gain(name: str, paired: Mapping[str, np.ndarray], bootstrap: Bootstrap, metric: str) -> Gain | None:
    """Return the candidate's gain over an arm, or None where either could not be trained on every seed."""
    if name == CANDIDATE or name not in paired or CANDIDATE not in paired:
        return None
    return bootstrap.gain_against(name, paired[CANDIDATE], paired[name], metric=metric)


def _payments(order: Order, result: TaskResult) -> Iterator[str]:
    """Yield in words whether the training with each part beats the one without it."""
    gains = {arm.name: arm.gain for arm in result.arms if arm.gain is not None}
    for part in order.ablate:
        gain = gains.get(f"without_{part}")
        if gain is None:
            yield f"what {part} is worth is not known, because an arm could not be trained on every seed."
            continue
        size = difference(result.metric, gain.gain)
        yield f"the training with {part} {OUTCOMES[gain.verdict]}; its gain is {size}."


def benchmark_notes(order: Order, results: Sequence[TaskResult]) -> list[str]:
    """Return what a reader must know before believing the figures."""
    seeds = f"{order.seeds} paired seed(s)"
    if order.ablate:
        notes = [_times(result, seeds) for result in results]
    else:
        notes = [f"Every arm had the same examples, epochs and {seeds}; training time may differ."]
    if order.seeds < 3:
        notes.append("With fewer than three seeds the intervals say little about the luck of training.")
    for result in results:
        notes += [f"{result.task}: {words}" for words in _payments(order, result)]
        matters = result.attention_matters
        if matters is not None:
            shown = "attention matters here" if matters.low > 0 else "attention is not shown to matter here"
            gain = difference(result.metric, matters)
            notes.append(f"{result.task}: standard attention over the mean of the values: {gain}; {shown}.")
        notes += [f"{result.task}: {words}" for words in _poorly_matched(result.arms)]
        for arm in result.arms:
            if arm.diverged:
                count = f"{arm.diverged} of {order.seeds} seeds"
                notes.append(f"{result.task}: {arm.name} could not be trained on {count} and is compared with nothing.")
        if result.truncated:
            notes.append(f"{result.task}: {result.truncated}.")
        if result.unfitted:
            notes.append(f"{result.task}: floors that could not be fitted: {', '.join(result.unfitted)}.")
    verdicts = sum(arm.gain is not None and arm.flops is not None for result in results for arm in result.arms)
    if verdicts > 1:
        notes.append(
            f"There are {verdicts} verdicts on trained arms, each at its own level: where nothing differs, one in "
            "twenty would be wrong."
        )
    return notes


def _times(result: TaskResult, seeds: str) -> str:
    """Return how long a training of each arm took, and whether that was the same."""
    took = {arm.name: arm.train_seconds for arm in result.arms if arm.train_seconds is not None}
    goal = took.pop(CANDIDATE, None)
    if goal is None:
        return f"The arms had {seeds}."
    apart = {name: seconds / goal - 1 for name, seconds in took.items()}
    reached = [f"{name} {seconds:.1f} s ({100 * apart[name]:+.0f} %)" for name, seconds in took.items()]
    times = f"of a training on average: {CANDIDATE} {goal:.1f} s, {', '.join(reached)}"
    if all(abs(part) <= SAME_TIME for part in apart.values()):
        same = f"Every arm had the same wall time, within {100 * SAME_TIME:.0f} %, and {seeds}; epochs may differ."
        return f"{same} Wall time {times}."
    return (
        f"The arms had {seeds}, but not the same wall time, so that a gain may be of time. Wall time {times}. Longer "
        "trainings (train.epochs) can be timed better."
    )


def _poorly_matched(arms: Sequence[BenchmarkArm]) -> list[str]:
    """Return which arms could not be made to cost what the candidate does, because widths come in steps."""
    by_name = {arm.name: arm for arm in arms}
    found: list[str] = []
    for name, measure in (("matched_flops", "flops"), ("matched_size", "parameters")):
        wanted, got = (getattr(by_name.get(each), measure, None) for each in (CANDIDATE, name))
        if wanted and got and abs(got / wanted - 1) > POOR_MATCH:
            found.append(f"{name} has {got / wanted:.2f} times the {measure} of the candidate: no width comes nearer.")
    return found
