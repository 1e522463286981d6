"""From Kedro's parameters to the same settings that the command line composes."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasma.core.errors import ConfigError
from chiasma.core.spec import suggestion
from chiasma.data.digit_claims import SOURCES as BUILT_IN
from chiasma.experiment.compose import load_config
from chiasma.experiment.config import RunConfig
from chiasma.pipelines.datasets import Workplace

LOGGER = logging.getLogger(__name__)
_KEYS = ["preset", "set", "extractor", "weights"]


class LoggedConsole:
    """Writes what long work says into Kedro's log; Ctrl-C ends the process, and ``chiasma resume`` goes on."""

    interrupted = False

    def say(self, text: str) -> None:
        """Log a line."""
        LOGGER.info("%s", text)

    def status(self, text: str) -> None:
        """Log a line for those who want to see everything."""
        LOGGER.debug("%s", text)


def composed(
    chosen: Mapping[str, Any],
    data: Mapping[str, Any],
    machine: Mapping[str, Any],
    *,
    place: Workplace,
    tokens: Path | None = None,
) -> RunConfig:
    """Return the settings of one pipeline.

    Args:
        chosen: ``preset``, and with ``set`` more settings, as a tree.
        data: The section ``data``; a relative source starts from the project's folder.
        machine: The section ``run``; ``tracking`` in it is that section.
        place: Where runs and prepared data lie.
        tokens: A file of ready-made image tokens.

    Raises:
        ConfigError: A parameter is unknown, or a value breaks its rule.
    """
    for key in chosen:
        if key not in _KEYS:
            raise ConfigError(f"parameters.yml: {key!r} is unknown.{suggestion(key, _KEYS)} Known: {', '.join(_KEYS)}.")
    run = {"folder": str(place.runs), "cache": str(place.cache), **machine}
    values: dict[str, Any] = dict(chosen.get("set") or {})
    values |= {f"data.{name}": value for name, value in _from(place.project, data).items()}
    values |= {f"run.{name}": value for name, value in run.items()}
    if tokens is not None:
        values["data.features"] = {"image": str(tokens)}
    return load_config(chosen.get("preset"), values=values)


def joined(config: RunConfig) -> RunConfig:
    """Return settings with which a training is shown in the run of MLflow that kedro-mlflow has begun, if it has."""
    if "mlflow" not in sys.modules:
        return config
    import mlflow

    active = mlflow.active_run()
    if active is None:
        return config
    # The address holds a login where the user's environment does: it is read from there again.
    uri = mlflow.get_tracking_uri()
    shown = {"enabled": True, "uri": None if "@" in uri else uri, "run": active.info.run_id}
    tracking = config.tracking.model_copy(update={"mlflow": config.tracking.mlflow.model_copy(update=shown)})
    return config.model_copy(update={"tracking": tracking})


def command() -> list[str]:
    """Return what the user typed, for a run's provenance."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _from(project: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``data`` with paths that are below the project made whole."""
    whole = dict(data)
    for name in ("source", "image_dir"):
        value = whole.get(name)
        if isinstance(value, str) and value not in BUILT_IN and (project / value).exists():
            whole[name] = str(project / value)
    return whole
