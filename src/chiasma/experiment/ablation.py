"""What a part of the training is worth: the design with and without it, on paired seeds, at equal wall time."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.core.outcome import Scored
from chiasma.core.rng import derive_seed
from chiasma.core.spec import replace_at
from chiasma.experiment.benchmark_judge import BenchmarkTask, Order, Part
from chiasma.experiment.driver import Driver, Work
from chiasma.experiment.finals import ArmDesign, TrainedArm
from chiasma.experiment.search_loop import training_key
from chiasma.train.design import Design

SPEED_FRACTION = 0.2
"""Least part of its epochs from which an arm's speed is measured."""
SPEED_SECONDS = 10.0
"""Least time from which it is measured, where a whole training takes so long."""
WARM_FRACTION = 0.05
"""Part of its epochs that each worker trains first, so that no measurement contains what is slow the first time."""

SETTINGS: Mapping[Part, str] = {"growth": "--config growth", "controller": "--set controller.kind=lstm"}
"""What gives a training a part."""

Trained = Mapping[str, Mapping[str, TrainedArm]]
TrainArms = Callable[[Sequence[BenchmarkTask]], Trained]
AddArm = Callable[[str, Design, str], ArmDesign]


def check_parts(parts: Sequence[Part], design: Design) -> None:
    """Refuse to leave out what is not there.

    Raises:
        ConfigError: Names the part, and what gives it.
    """
    for part in parts:
        if getattr(design.training, part) is None:
            raise ConfigError(f"--ablate {part}: the settings have no {part} to leave out. Give it: {SETTINGS[part]}.")


def train_ablated(
    order: Order, task: BenchmarkTask, driver: Driver, *, train: TrainArms, add: AddArm
) -> tuple[BenchmarkTask, Trained]:
    """Train the whole design on every seed, then the designs without each part for as long as that took.

    Args:
        order: Which parts, and how many seeds.
        task: With the whole design as its only arm.
        driver: Trains, and remembers what was decided.
        train: Trains every arm of tasks on every seed.
        add: Records an arm.

    Returns:
        The task with all its arms, and their trainings.
    """
    (arm,) = task.arms
    _warm(arm, task, driver)
    whole = train([task])
    trainings = whole[task.name][arm.name].trainings
    if not trainings:
        raise ChiasmaError(f"The design could not be trained on any of {order.seeds} seeds, so nothing is compared.")
    goal = fmean(training.outcome.metrics["train_seconds"] for training in trainings)
    arms = []
    for part in order.ablate:
        design = replace_at(arm.design, f"training.{part}", None)
        epochs = _epochs_within(goal, add(f"speed_without_{part}", design, f"without {part}"), task, order, driver)
        longer = _with_loop(design, "epochs", epochs)
        driver.console.say(f"without {part}: {epochs:g} epochs take as long as {design.training.loop.epochs:g} with it")
        arms.append(add(f"without_{part}", longer, f"without {part}, {epochs:g} epochs in the same time"))
    others = BenchmarkTask(task.name, task.setting, tuple(arms), {}, task.slot)
    trained = {task.name: {**whole[task.name], **train([others])[task.name]}}
    return BenchmarkTask(task.name, task.setting, (arm, *arms), {}, task.slot), trained


def _warm(arm: ArmDesign, task: BenchmarkTask, driver: Driver) -> None:
    """Have every worker train for a moment; after an interruption again, because its workers are new."""
    before = sum(row.key.startswith("warm ") for row in driver.store.jobs())
    for place in range(task.setting.config.run.workers):
        key = training_key(f"warm {task.name}", arm.candidate, before + place, WARM_FRACTION)
        job = task.setting.make_job(key=key, design=arm.design, seed=place, fraction=WARM_FRACTION, rung=0)
        driver.submit(Work(job, arm.candidate, "warmup"))
    driver.finish_all()


def _epochs_within(seconds: float, arm: ArmDesign, task: BenchmarkTask, order: Order, driver: Driver) -> float:
    """Return how many epochs of a design take so long, by a part of its training with as many workers at work.

    A design evaluates equally often however many epochs it has, unless it does so every epoch, so that steps and
    evaluations are timed apart: by the same steps with as many evaluations as usual and with one.
    """
    training = arm.design.training
    loop = training.loop
    fraction = min(1.0, max(SPEED_FRACTION, SPEED_SECONDS / seconds))
    took = _seconds_of(fraction, arm.design, arm, task, order, driver)
    often = 0 if loop.evaluations == "every_epoch" else training.evaluations_in(fraction)
    evaluation = 0.0
    if often > 1:
        seldom = _seconds_of(fraction, _with_loop(arm.design, "evaluations", 1), arm, task, order, driver)
        evaluation = max(0.0, (took - seldom) / (often - 1))
    steps = took - often * evaluation
    evaluating = training.evaluations_in(1.0) * evaluation
    return round(max(fraction, fraction * (seconds - evaluating) / steps) * loop.epochs, 2)


def _seconds_of(
    fraction: float, design: Design, arm: ArmDesign, task: BenchmarkTask, order: Order, driver: Driver
) -> float:
    """Return the mean time of a part of a design's training, with as many workers at work as when all are trained."""
    run = task.setting.config.run
    evaluations = design.training.loop.evaluations
    for seed in range(min(order.seeds, run.workers)):
        job = task.setting.make_job(
            key=training_key(f"speed {task.name} {evaluations}", arm.candidate, seed, fraction),
            design=design,
            seed=derive_seed(run.seed, "benchmark", seed),
            fraction=fraction,
            rung=0,
        )
        driver.submit(Work(job, arm.candidate, "warmup"))
    found = [each.outcome for each in driver.finish_all()]
    measured = [outcome.metrics["train_seconds"] for outcome in found if isinstance(outcome, Scored)]
    if not measured:
        raise ChiasmaError(f"The speed of the design {arm.description} could not be measured: {found[0]}")
    return fmean(measured)


def _with_loop(design: Design, name: str, value: float) -> Design:
    return replace_at(design, f"training.loop.{name}", value)
