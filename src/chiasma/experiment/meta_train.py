"""Learn a controller over many short trainings, as a run that can be killed and resumed between any two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasma.adapt.callbacks import callbacks_of
from chiasma.adapt.controller import Controller
from chiasma.adapt.learned import DOCUMENT, Knowledge, content_of, knowledge_for, load_knowledge
from chiasma.core.errors import ConfigError, CorruptFileError, NonFiniteError
from chiasma.core.rng import derive_seed, numpy_rng
from chiasma.data.dataset import Dataset
from chiasma.data.signature import Target
from chiasma.experiment.backbones import with_backbones
from chiasma.experiment.beginning import (
    StoppedTooSoonError,
    begin_run,
    check_can_run,
    failing,
    prepare_data,
    reopen_data,
)
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.learned_controllers import say_idle_controls
from chiasma.experiment.tracking import refuse_tracking
from chiasma.experiment.watching import WatchedTraining
from chiasma.store.checkpoint import load_checkpoint
from chiasma.store.logs import log_to
from chiasma.store.run import RunStore
from chiasma.train.controlling import LSTMController
from chiasma.train.design import Design
from chiasma.train.fit import Fit
from chiasma.train.metrics import primary_metric
from chiasma.train.trainer import Trainer

VERB = "meta-train"
FOLDER = "controller"
FACT = "meta"
# Half and twice the width, and what most data are fused by: enough that no single design is learned by heart.
WIDTHS = (0.5, 1.0, 2.0)
FUSIONS = ("multiplicative", "concat", "gated", "film", "bilinear")
SCHEDULES = ("cosine", "constant")
MULTIPLE = 16


@dataclass(frozen=True)
class MetaResult:
    """What a meta-training hands back.

    Attributes:
        run_path: The run's folder.
        folder: Where the controller lies.
        content: Its hash.
        runs: Trainings that it has learned from.
        stopped: ``finished``, or ``interrupted`` where the user stopped it.
    """

    run_path: Path
    folder: Path
    content: str
    runs: int
    stopped: str


@dataclass(frozen=True)
class Lesson:
    """One short training to learn from.

    Attributes:
        design: What is trained.
        seed: Of the training.
        words: What is special about it.
        target: What it learns to predict.
    """

    design: Design
    seed: int
    words: str
    target: Target


def meta_train(
    config: RunConfig, *, runs: int, to: Path | None = None, console: Console, command: Sequence[str] = ()
) -> MetaResult:
    """Learn a controller; neither ``select`` nor ``test`` is ever looked at.

    Args:
        config: Everything the run is told. Its design is varied from training to training: seed, learning rate
            between a tenth and ten times, width, fusion and schedule.
        runs: How many trainings.
        to: Folder for the controller beside the one in the run; None for no other.
        console: Where progress goes, and whether the user wants to stop.
        command: The command line, for the provenance.

    Raises:
        ChiasmaError: The data or a setting cannot be used; nothing has been trained.
    """
    spec_of(config)
    refuse_tracking(config, VERB)
    if to is not None:
        _check_place(to, run=None)
    config = with_backbones(config, console)
    dataset, _ = prepare_data(config, console)
    check_can_run(config, dataset)
    facts = [(FACT, {"runs": runs, "to": None if to is None else str(to.absolute())})]
    with begin_run(config, dataset, verb=VERB, command=command, facts=facts) as store, failing(store):
        return _learn(config, dataset, store=store, console=console)


def resume(path: Path, *, console: Console) -> MetaResult:
    """Continue after the last training that was finished.

    Args:
        path: The run's folder.

    Raises:
        RunBusyError: Another process is writing to the run.
        DataError: The data have changed since.
        ConfigError: Other things lie now where the controller was to go.
    """
    with RunStore.open(path, write=True) as store:
        config = RunConfig.from_dict(store.config)
        dataset, _ = reopen_data(store, config, console)
        with failing(store):
            return _learn(config, dataset, store=store, console=console)


def spec_of(config: RunConfig) -> LSTMController:
    """Return the controller that is to learn: that of the settings, or the default one.

    Raises:
        ConfigError: It cannot learn.
    """
    spec = LSTMController() if config.controller is None else config.controller
    if not isinstance(spec, LSTMController):
        raise ConfigError(f"controller.kind: meta-train learns an lstm, but the settings have {spec.kind}.")
    if not spec.learns:
        raise ConfigError("controller.learns: meta-train is for learning, but the settings have learns=false.")
    return spec


def lesson(config: RunConfig, dataset: Dataset, number: int) -> Lesson:
    """Return the training of one number, counted from 0: a function of the run's seed and the number."""
    rng = numpy_rng(config.run.seed, VERB, number)
    factor = float(10 ** rng.uniform(-1, 1))
    width, fusion, schedule = (rng.choice(choices) for choices in (WIDTHS, FUSIONS, SCHEDULES))
    tree = config.to_dict()
    tree["controller"] = spec_of(config).to_dict()
    tree["optim"] |= {"lr": config.optim.lr * factor, "schedule": {"kind": str(schedule)}}
    tree["model"] |= {"dim": max(MULTIPLE, round(config.model.dim * float(width) / MULTIPLE) * MULTIPLE)}
    if config.model.fusion is None or not config.model.fusion.every_token:
        tree["model"] |= {"fusion": {"kind": str(fusion)}}
    design = RunConfig.from_dict(tree).design(dataset.signature)
    words = f"rate x {factor:.2f}, width {design.model.dim}, {schedule}"
    if design.model.fusion is not None:
        words = f"{words}, {design.model.fusion.kind}"
    return Lesson(design, derive_seed(config.run.seed, VERB, "training", number), words, dataset.signature.target)


def _learn(config: RunConfig, dataset: Dataset, *, store: RunStore, console: Console) -> MetaResult:
    """Train to the last number, keeping what was learned after each training."""
    store.set_status("running")
    console.say(f"run {store.id} in {store.path}")
    say_idle_controls(config.design(dataset.signature), console=console)
    asked = store.events(FACT)[0].data
    folder = store.path / FOLDER
    place = folder if asked["to"] is None else Path(asked["to"])
    if place != folder:
        _check_place(place, run=store.id)
    known = _kept(folder)
    done = _done(known)
    known = knowledge_for(spec_of(config)) if known is None else known
    with log_to(store.path):
        for number in range(done, asked["runs"]):
            if console.interrupted:
                break
            following = _one(config, dataset, number, known=known, store=store, console=console)
            if following is None:
                break
            known = _numbered(following, number + 1, config=config, store=store)
            known.save(folder)
            done = number + 1
    stopped = "finished" if done == asked["runs"] else "interrupted"
    store.set_status("finished" if stopped == "finished" else "stopped")
    if not done:
        raise StoppedTooSoonError(f"Stopped before the first training had ended. Continue: chiasma resume {store.path}")
    if place != folder and known is not None:
        # Once more: others may have put something there meanwhile. What was learned lies in the run.
        _check_place(place, run=store.id)
        known.save(place)
    return MetaResult(store.path, place, content_of(place), done, stopped)


def _one(
    config: RunConfig, dataset: Dataset, number: int, *, known: Knowledge | None, store: RunStore, console: Console
) -> Knowledge | None:
    """Train once and return what is known then; None where the user stopped it."""
    chosen = lesson(config, dataset, number)
    design, precision = chosen.design, config.run.precision
    callbacks = callbacks_of(design, dataset, seed=chosen.seed, precision=precision, known=known)
    controller = next(each for each in callbacks if isinstance(each, Controller))
    watched = WatchedTraining(_Quiet(console, f"training {number + 1}"))
    trainer = Trainer(
        design,
        dataset,
        seed=chosen.seed,
        device=config.run.device,
        precision=precision,
        callbacks=callbacks,
        progress=watched,
    )
    watched.trainer = trainer
    try:
        fit = trainer.fit()
    except NonFiniteError as error:
        # Far too high a rate may end so in any design: what was learned until then is still true.
        console.say(f"training {number + 1}: {chosen.words}: {error}")
        return controller.knowledge
    if fit.stopped == "interrupted":
        return None
    _tell(fit, chosen, number, controller=controller, store=store, console=console)
    return controller.knowledge


def _tell(fit: Fit, chosen: Lesson, number: int, *, controller: Controller, store: RunStore, console: Console) -> None:
    """Leave a line and an event for one training."""
    losses = [point["loss"] for point in controller.trace if "loss" in point]
    metric = primary_metric(chosen.target, None)
    value = fit.best[metric]
    rolled = len(controller.returns)
    told: Mapping[str, Any] = {
        "number": number + 1,
        "what": chosen.words,
        "loss": losses[-1] if losses else None,
        metric: value,
        "roll-backs": rolled,
        "seconds": fit.seconds,
    }
    store.record_event("meta-training", told)
    loss = f"loss on steer {losses[0]:.3f} to {losses[-1]:.3f}, " if losses else "too short to decide anything, "
    console.say(
        f"training {number + 1}: {chosen.words}: {loss}{metric} {value:.4f}, {rolled} roll-backs, {fit.seconds:.0f} s"
    )


def _kept(folder: Path) -> Knowledge | None:
    """Return what was learned so far; None before the first training has ended."""
    return load_knowledge(folder) if any(folder.glob("step-*")) else None


def _done(known: Knowledge | None) -> int:
    """Return how many trainings of this run are behind it."""
    return 0 if known is None else int(known.card.facts["done"])


def _numbered(known: Knowledge, done: int, *, config: RunConfig, store: RunStore) -> Knowledge:
    """Return what is known with where it comes from."""
    facts = {"done": done, "run": store.id, "data": config.data.to_dict(), "seed": config.run.seed}
    return Knowledge(known.card.model_copy(update={"runs": known.card.runs + 1, "facts": facts}), known.tensors)


def _check_place(to: Path, *, run: str | None) -> None:
    """Refuse a folder that holds anything but what this run has put there: saving deletes older checkpoints.

    Args:
        to: Where a controller is to lie.
        run: The id of a run that has begun; None for a new one, which has put nothing anywhere.

    Raises:
        ConfigError: It is a file, its parent does not exist, or other things lie in it.
    """
    if to.is_file() or not to.absolute().parent.is_dir():
        raise ConfigError(f"--to: {to} must be a folder inside one that exists.")
    others = sorted(path.name for path in to.iterdir() if run is None or not _is_of(run, path)) if to.is_dir() else []
    if others:
        raise ConfigError(
            f"--to: {to} holds other things ({', '.join(others[:3])}), which are not deleted: choose an empty folder, "
            "or move them away."
        )


def _is_of(run: str, path: Path) -> bool:
    """Return whether a run has put a file or folder there: its controller, or a draft of it that a kill left."""
    if path.name.startswith("step-") and path.name.endswith(".tmp"):
        return True
    try:
        card = load_checkpoint(path).documents.get(DOCUMENT)
    except CorruptFileError:
        return False
    facts = card.get("facts") if isinstance(card, dict) else None
    return isinstance(facts, dict) and facts.get("run") == run


class _Quiet:
    """Shows how far a training is and none of its lines: each of many trainings has one line at its end.

    Args:
        console: Where it is shown.
        title: Which training.
    """

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title

    @property
    def interrupted(self) -> bool:
        """Return whether the user asked to stop."""
        return self.console.interrupted

    def say(self, text: str) -> None:
        """Drop the line."""

    def status(self, text: str) -> None:
        """Show it below its title."""
        self.console.status(f"{self.title}: {text}")
