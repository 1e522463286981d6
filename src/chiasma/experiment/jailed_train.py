"""Train a design whose source nobody has approved: in the jail, which hands back the best so far when it is stopped."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.core.files import read_json, storage_errors, write_json
from chiasma.core.outcome import Rejected, Scored
from chiasma.data.dataset import Dataset
from chiasma.evaluate.jail import Stopping
from chiasma.evaluate.jailed_trial import run_jailed
from chiasma.evaluate.job import Job
from chiasma.evaluate.training import INTERRUPTED
from chiasma.experiment.arms import kept_logits, kept_training, load_trained
from chiasma.experiment.beginning import StoppedTooSoonError
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.ended import Ended
from chiasma.experiment.jail_terms import alone, lesser_jail
from chiasma.experiment.together import Group
from chiasma.model.generated import unapproved_in
from chiasma.train.design import Design

OUTCOME = "outcome.json"
# For the step that it is in, an evaluation and the answers on select.
GRACE_SECONDS = 60.0


def check_can_be_jailed(config: RunConfig, design: Design, *, ranks: int, run: Path | None = None) -> None:
    """Refuse settings that a training in the jail cannot follow; nothing is refused where it needs none.

    Args:
        run: The folder of a run that is resumed; its source may have been trusted when it began.

    Raises:
        ConfigError: Names the setting, and the hash to approve.
    """
    parts = unapproved_in(design)
    if not parts:
        return
    asked = {
        "torchrun": ranks > 1,
        "tracking.wandb.enabled": config.tracking.wandb.enabled,
        "run.compile": config.run.compile,
    }
    remedy = "Read it (chiasma show RUN#K); if it is harmless:"
    if run is not None:
        remedy = f"If it is harmless: chiasma config show --config {run / 'config.json'}"
    for name, wanted in asked.items():
        if wanted:
            raise ConfigError(
                f"{name}: source that nobody has approved trains in the jail, alone and on the CPU. {remedy} --trust "
                f"{parts[0].sha256}"
            )


class Watch:
    """Says how long a training in the jail has lasted, and passes on that the user wants it to stop.

    Args:
        console: Where to say it, and who knows of Ctrl-C.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()

    def asked(self) -> bool:
        """Return whether the user asked to stop."""
        self.console.status(f"training in the jail for {time.monotonic() - self._started:.0f} s")
        return self.console.interrupted


def train_jailed(
    config: RunConfig, design: Design, dataset: Dataset, *, metric: str, folder: Path, group: Group
) -> Ended:
    """Train in the jail and return what is left of it, kept in ``folder``; what ended there is not trained again.

    The jail has no place for checkpoints: a training that was stopped hands back the best so far, and begins again
    when it is resumed. The earlier attempt stands until the new one has ended, or was stopped with a lower error.

    Raises:
        ChiasmaError: The design was rejected; says at which stage and why.
        StoppedTooSoonError: The user stopped it, and it had nothing to hand back.
        JailError: The jail cannot be closed on this machine.
    """
    console, kept, attempt = group.console, folder / "jailed", folder / "jailed-attempt"
    job = Job(
        key="train",
        design=design,
        dataset=str(dataset.folder),
        seed=config.run.seed,
        metric=metric,
        precision=config.run.precision,
        keep_checkpoint=str(attempt),
        keep_predictions=str(attempt / "select.npz"),
        **alone(config),
    )
    _replace(kept, attempt)
    earlier = _outcome_of(kept, job)
    if earlier is not None and not _interrupted(kept):
        return _ended(kept, earlier, config=config)
    hashes = ", ".join(part.sha256[:12] for part in unapproved_in(design))
    console.say(
        f"training in the jail, on the CPU and without a word until it ends: source {hashes} is unapproved. "
        "Ctrl-C hands back the best so far; resumed, it begins again"
    )
    outcome = run_jailed(job, dataset, stopping=Stopping(Watch(console).asked, GRACE_SECONDS))
    if isinstance(outcome, Rejected):
        raise _no_training(outcome, interrupted=console.interrupted, run=folder.parent, stands=earlier is not None)
    stands = earlier if earlier is not None and _interrupted(attempt) and not _better(outcome, earlier) else None
    if stands is None:
        write_json(attempt / OUTCOME, {"job": _identity(job), "outcome": outcome.to_dict()})
    _replace(kept, attempt)
    words = [] if earlier is None else [_which_stands(outcome, earlier, metric=metric, new=stands is None)]
    for line in words:
        console.say(line)
    return _ended(kept, stands or outcome, config=config, notes=words)


def _replace(kept: Path, attempt: Path) -> None:
    """Put an attempt that is to stand where it is kept, also where a kill came between; clear away any other."""
    if (attempt / OUTCOME).is_file():
        shutil.rmtree(kept, ignore_errors=True)
        with storage_errors(kept):
            attempt.rename(kept)
    shutil.rmtree(attempt, ignore_errors=True)


def _interrupted(kept: Path) -> bool:
    return kept_training(kept).documents["stopped"] == INTERRUPTED


def _better(outcome: Scored, earlier: Scored) -> bool:
    return outcome.objectives["error"] < earlier.objectives["error"]


def _which_stands(outcome: Scored, earlier: Scored, *, metric: str, new: bool) -> str:
    """Return what of two attempts at one training is kept."""
    new_words, old_words = (
        f"{name} attempt (step {each.metrics['steps']:.0f}, {metric} {each.metrics[metric]:.3g} on select)"
        for name, each in (("new", outcome), ("earlier", earlier))
    )
    if new:
        return f"The {new_words} stands and replaces the {old_words}."
    return f"The {old_words} stands: the {new_words} was interrupted before it was better."


def _no_training(outcome: Rejected, *, interrupted: bool, run: Path, stands: bool) -> ChiasmaError:
    kept = " What an earlier attempt left stands." if stands else ""
    if interrupted and outcome.stage in ("stopped", "deadline"):
        return StoppedTooSoonError(
            f"Stopped in the jail with nothing to hand back ({outcome.reason}).{kept} Begin it again: chiasma resume "
            f"{run}"
        )
    return ChiasmaError(f"The training was rejected ({outcome.stage}): {outcome.reason}.{kept}")


def _outcome_of(kept: Path, job: Job) -> Scored | None:
    """Return what an earlier attempt at the same training came to, whether it ended or was interrupted."""
    if not (kept / OUTCOME).is_file():
        return None
    known = read_json(kept / OUTCOME)
    return Scored.from_dict(known["outcome"]) if known["job"] == _identity(job) else None


def _identity(job: Job) -> str:
    """Return what says that two trainings are one, wherever they are kept."""
    return job.model_copy(update={"keep_checkpoint": None, "keep_predictions": None, "dataset": ""}).content_hash()


def _ended(kept: Path, outcome: Scored, *, config: RunConfig, notes: Sequence[str] = ()) -> Ended:
    found = kept_training(kept)
    known = {**outcome.metrics, **outcome.objectives}
    model = load_trained(kept, accept_lesser=config.evaluate.accept_lesser_jail)
    return Ended(
        model=model,
        design=Design.from_dict(found.documents["design"]),
        logits=kept_logits(kept),
        steps=int(known["steps"]),
        seconds=known["train_seconds"],
        stopped=str(found.documents["stopped"]),
        history=tuple(found.documents["history"]),
        growth=found.documents["growth"],
        controller=found.documents["controller"],
        parameters=int(known["parameters"]),
        flops=known["flops"],
        notes=(*lesser_jail([outcome]), *notes),
    )
