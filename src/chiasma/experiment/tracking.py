"""Show a training in other programs, which the settings name; the run itself never depends on them."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.data.dataset import Dataset
from chiasma.experiment.beginning import Fact
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.mlflow_model import readable_columns
from chiasma.experiment.results import RunResult
from chiasma.experiment.tracking_settings import MlflowSection, WandbSection
from chiasma.model.multimodal import MultimodalModel
from chiasma.store.run import RunStore
from chiasma.train.devices import pick_device
from chiasma.train.mlflow_tracker import DEFAULT_URI, MODEL, MlflowTracker, check_mlflow, whole_uri
from chiasma.train.trackers import TrackedTraining, Tracker
from chiasma.train.wandb_tracker import WandbTracker, check_wandb

LOGGER = logging.getLogger(__name__)

FACT = "tracker"
MARK_FILE = "tracked.txt"
PROJECT = "chiasma"
LOADER = "chiasma.experiment.mlflow_model"
_EVENT_COLUMNS = ("step", "event", "name", "reason")


def check_tracking(config: RunConfig) -> None:
    """Refuse to track where that cannot work, before anything is prepared.

    Raises:
        ConfigError: A tracker is not installed, or nobody is logged in; says what to do.
    """
    mode = wandb_mode(config.tracking.wandb)
    if mode is not None:
        check_wandb(mode)
    if config.tracking.mlflow.enabled:
        check_mlflow()


def refuse_tracking(config: RunConfig, verb: str) -> None:
    """Refuse trackers in a verb that would not tell them anything.

    Raises:
        ConfigError: One is enabled.
    """
    shown = {"wandb": wandb_mode(config.tracking.wandb) is not None, "mlflow": config.tracking.mlflow.enabled}
    for name, enabled in shown.items():
        if not enabled:
            continue
        raise ConfigError(
            f"tracking.{name}.enabled: trackers are shown the one training of `chiasma train`; {verb} trains many at a "
            "time in processes of their own and would show none. Set it to false; to watch the design that is found, "
            "train it again."
        )


def tracking_facts(config: RunConfig) -> list[Fact]:
    """Return what a resumed run must know so that trackers see it as the run that it continues."""
    facts: list[Fact] = []
    if config.tracking.wandb.enabled:
        facts.append((FACT, {"name": WandbTracker.name, "run": secrets.token_hex(8)}))
    if config.tracking.mlflow.enabled:
        # A resume may happen elsewhere. An address with a login is in the environment and stays there.
        uri = mlflow_uri(config.tracking.mlflow)
        place = {} if "@" in uri else {"uri": uri}
        facts.append((FACT, {"name": MlflowTracker.name, "run": secrets.token_hex(8), **place}))
    return facts


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
    openers: dict[str, Callable[[], Tracker]] = {}
    mode = wandb_mode(config.tracking.wandb)
    if mode is not None:
        openers[WandbTracker.name] = lambda: _open_wandb(config.tracking.wandb, dataset, mode=mode, store=store)
    if config.tracking.mlflow.enabled:
        openers[MlflowTracker.name] = lambda: _open_mlflow(config, dataset, store=store, resumed=resumed)
    trackers: list[Tracker] = []
    for name, opener in openers.items():
        try:
            tracker = opener()
        except ChiasmaError as error:
            if not resumed:
                raise
            LOGGER.warning("The training goes on without %s. %s", name, error)
        else:
            trackers.append(tracker)
            console.say(f"{tracker.name}: {tracker.place}")
    return TrackedTraining(trackers, every_steps=config.tracking.every_steps, mark=store.path / MARK_FILE)


def summarise(tracking: TrackedTraining, config: RunConfig, result: RunResult, *, model: Any) -> None:
    """Show trackers what a training came to.

    Args:
        tracking: Whom to show it.
        config: Whether the model is among what is shown.
        result: The figures, the report and the saved model.
        model: The trained model; how large all of it is is known only where it does not run in the jail.
    """
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
    if isinstance(model, MultimodalModel):
        values["parameters_in_all"] = sum(parameter.numel() for parameter in model.parameters())
    judged = {check.name: check for check in results.checks if check.passed is not None}
    values |= {f"check/{name}": float(bool(check.passed)) for name, check in judged.items()}
    values["checks_failed"] = ", ".join(name for name, check in judged.items() if not check.passed) or "none"
    events = [{name: event.get(name) for name in _EVENT_COLUMNS} for event in results.growth.get("events", [])]
    files = {name: result.run_path / name for name in ("config.json", "results.json", "report.html")}
    if config.tracking.mlflow.model:
        files[MODEL] = result.model_path
    tracking.summarise(values, tables={"growth/events": events} if events else {}, files=files)


def mlflow_uri(settings: MlflowSection) -> str:
    """Return where MLflow is: the settings, else the environment, else a file in the working directory."""
    return whole_uri(settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


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
    check_wandb(mode)
    return WandbTracker(
        store.path,
        run=str(_known(store, WandbTracker.name)["run"]),
        title=settings.run_name or store.id,
        project=settings.project or os.environ.get("WANDB_PROJECT") or PROJECT,
        entity=settings.entity,
        group=settings.group,
        tags=settings.tags,
        mode=mode,
        # As they were stored, where no text holds a secret.
        config={**store.config, "chiasma": _about(store, dataset)},
    )


def _open_mlflow(config: RunConfig, dataset: Dataset, *, store: RunStore, resumed: bool) -> MlflowTracker:
    """Return a tracker that is told what W&B is, the size of the splits and the device."""
    check_mlflow()
    settings = config.tracking.mlflow
    known = _known(store, MlflowTracker.name)
    splits = {split: len(dataset.rows(split)) for split in ("train", "steer", "select")}
    about = {"chiasma": _about(store, dataset), "samples": splits, "device": str(pick_device(config.run.device))}
    return MlflowTracker(
        str(known.get("uri") or mlflow_uri(settings)),
        experiment=settings.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT,
        token=str(known["run"]),
        title=settings.run_name or store.id,
        run=settings.run,
        ends=settings.run is None or resumed,
        tags=settings.tags,
        config=store.config,
        about=about,
        dataset=(Path(dataset.source).name, dataset.source, dataset.fingerprint),
        loader=LOADER,
        columns=readable_columns(dataset.signature, config.data),
    )


def _known(store: RunStore, name: str) -> Mapping[str, Any]:
    """Return what a run noted of a tracker when it began."""
    return next(event.data for event in store.events(FACT) if event.data["name"] == name)


def _about(store: RunStore, dataset: Dataset) -> dict[str, str]:
    provenance = store.provenance
    return {
        "run": store.id,
        "fingerprint": dataset.fingerprint,
        "version": provenance["chiasma"]["version"],
        "commit": provenance["chiasma"]["commit"],
        "command": " ".join(provenance["command"]),
    }
