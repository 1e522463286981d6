"""Show a training in other programs, which the settings name; the run itself never depends on them."""

import logging
import os
import secrets
from typing import Any, Literal

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.data.dataset import Dataset
from chiasma.experiment.beginning import Fact
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.results import RunResult
from chiasma.experiment.tracking_settings import WandbSection
from chiasma.store.run import RunStore
from chiasma.train.trackers import TrackedTraining, Tracker
from chiasma.train.wandb_tracker import WandbTracker, check_wandb

LOGGER = logging.getLogger(__name__)

FACT = "tracker"
MARK_FILE = "tracked.txt"
PROJECT = "chiasma"
_EVENT_COLUMNS = ("step", "event", "name", "reason")


def check_tracking(config: RunConfig) -> None:
    """Refuse to track where that cannot work, before anything is prepared.

    Raises:
        ConfigError: A tracker is not installed, or nobody is logged in; says what to do.
    """
    mode = wandb_mode(config.tracking.wandb)
    if mode is not None:
        check_wandb(mode)


def refuse_tracking(config: RunConfig, verb: str) -> None:
    """Refuse trackers in a verb that would not tell them anything.

    Raises:
        ConfigError: One is enabled.
    """
    if wandb_mode(config.tracking.wandb) is not None:
        raise ConfigError(
            f"tracking.wandb.enabled: trackers are shown the one training of `chiasma train`; {verb} trains many at a "
            "time in processes of their own and would show none. Set it to false; to watch the design that is found, "
            "train it again."
        )


def tracking_facts(config: RunConfig) -> list[Fact]:
    """Return what a resumed run must know so that trackers see it as the run that it continues."""
    if not config.tracking.wandb.enabled:
        return []
    return [(FACT, {"name": WandbTracker.name, "run": secrets.token_hex(8)})]


def open_tracking(
    config: RunConfig, dataset: Dataset, *, store: RunStore, console: Console, resumed: bool
) -> TrackedTraining:
    """Return what shows a training in every tracker that the settings enable; to be used as a context.

    Args:
        config: Whose ``tracking`` section names them.
        dataset: What is learnt from.
        store: The run, whose facts hold the trackers' own ids.
        console: Where it is said where the training can be seen.
        resumed: The run had begun before: then a tracker that cannot be reached is left out with a warning, for a
            training that could go on must not wait for it.

    Raises:
        ConfigError: A new run cannot be shown in a tracker.
    """
    trackers: list[Tracker] = []
    mode = wandb_mode(config.tracking.wandb)
    if mode is not None:
        try:
            check_wandb(mode)
            tracker = _open_wandb(config.tracking.wandb, dataset, mode=mode, store=store)
        except ChiasmaError as error:
            if not resumed:
                raise
            LOGGER.warning("The training goes on without W&B. %s", error)
        else:
            trackers.append(tracker)
            console.say(f"{tracker.name}: {tracker.place}")
    return TrackedTraining(trackers, every_steps=config.tracking.every_steps, mark=store.path / MARK_FILE)


def summarise(tracking: TrackedTraining, result: RunResult) -> None:
    """Show trackers what a training came to."""
    results = result.results
    winner = next(arm for arm in results.arms if arm.name == results.winner)
    values: dict[str, Any] = {f"select/{name}": value for name, value in winner.select.items()}
    values |= {
        "parameters": winner.parameters,
        "flops": winner.flops,
        "steps": results.budget["steps"],
        "seconds": results.budget["spent_seconds"],
        "stopped": result.stopped,
    }
    events = [{name: event.get(name) for name in _EVENT_COLUMNS} for event in results.growth.get("events", [])]
    tracking.summarise(values, tables={"growth/events": events} if events else {})


def wandb_mode(settings: WandbSection) -> Literal["online", "offline"] | None:
    """Return how W&B is told, or None where it is not.

    Raises:
        ConfigError: ``$WANDB_MODE`` is none that W&B has.
    """
    if not settings.enabled:
        return None
    mode = settings.mode or os.environ.get("WANDB_MODE") or "online"
    match mode:
        case "online" | "offline":
            return mode
        case "disabled":
            return None
    raise ConfigError(f"WANDB_MODE must be online, offline or disabled, but it is {mode!r}.")


def _open_wandb(
    settings: WandbSection, dataset: Dataset, *, mode: Literal["online", "offline"], store: RunStore
) -> WandbTracker:
    """Return a tracker that is told settings, command line and commit, with the paths that are in them."""
    known = {event.data["name"]: str(event.data["run"]) for event in store.events(FACT)}
    provenance = store.provenance
    about = {
        "run": store.id,
        "fingerprint": dataset.fingerprint,
        "version": provenance["chiasma"]["version"],
        "commit": provenance["chiasma"]["commit"],
        "command": " ".join(provenance["command"]),
    }
    return WandbTracker(
        store.path,
        run=known[WandbTracker.name],
        title=settings.run_name or store.id,
        project=settings.project or os.environ.get("WANDB_PROJECT") or PROJECT,
        entity=settings.entity,
        group=settings.group,
        tags=settings.tags,
        mode=mode,
        # As they were stored, where no text holds a secret.
        config={**store.config, "chiasma": about},
    )
