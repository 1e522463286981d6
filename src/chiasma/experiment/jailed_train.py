"""Train a design whose source nobody has approved: in the jail, whole or not at all."""

from pathlib import Path

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.core.outcome import Rejected
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.evaluate.job import Job
from chiasma.evaluate.trial import run_trial
from chiasma.experiment.arms import kept_logits, kept_training, load_trained
from chiasma.experiment.config import RunConfig
from chiasma.experiment.ended import Ended
from chiasma.experiment.together import Group
from chiasma.model.generated import unapproved_in
from chiasma.train.design import Design


def check_can_be_jailed(config: RunConfig, design: Design, *, ranks: int) -> None:
    """Refuse settings that a training in the jail cannot follow; nothing is refused where it needs none.

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
    for name, wanted in asked.items():
        if wanted:
            raise ConfigError(
                f"{name}: source that nobody has approved trains in the jail, alone and on the CPU. Read it (chiasma "
                f"show RUN#K); if it is harmless: --trust {parts[0].sha256}"
            )


def train_jailed(
    config: RunConfig, design: Design, dataset: Dataset, *, metric: str, folder: Path, group: Group
) -> Ended:
    """Train in the jail and return what is left of it, kept in ``folder``; what is kept already is not trained again.

    Raises:
        ChiasmaError: The design was rejected; says at which stage and why.
        JailError: The jail cannot be closed on this machine.
    """
    hashes = ", ".join(part.sha256[:12] for part in unapproved_in(design))
    group.console.say(
        f"training in the jail, on the CPU and without a word until it ends: source {hashes} is unapproved"
    )
    kept = folder / "jailed"
    job = Job(
        key="train",
        design=design,
        dataset=str(dataset.folder),
        seed=config.run.seed,
        metric=metric,
        precision=config.run.precision,
        keep_checkpoint=str(kept),
        keep_predictions=str(kept / "select.npz"),
        accept_lesser_jail=config.evaluate.accept_lesser_jail,
    )
    outcome = run_trial(job, dataset)
    if isinstance(outcome, Rejected):
        raise ChiasmaError(f"The training was rejected ({outcome.stage}): {outcome.reason}.")
    found = kept_training(kept)
    known = {**outcome.metrics, **outcome.objectives}
    model = load_trained(kept)
    return Ended(
        model=model,
        design=replace_at(design, "model", model.spec),
        logits=kept_logits(kept),
        steps=int(known["steps"]),
        seconds=known["train_seconds"],
        stopped="finished",
        history=tuple(found.documents.get("history", ())),
        growth=found.documents.get("growth", {}),
        controller=found.documents.get("controller", {}),
        parameters=int(known["parameters"]),
        flops=known["flops"],
    )
