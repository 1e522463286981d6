"""The tasks of ``benchmark`` and ``search`` by name: which settings, and where their data lie."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from chiasma.core.errors import ConfigError
from chiasma.core.spec import suggestion
from chiasma.data.digit_claims import SOURCES as BUILT_IN
from chiasma.experiment.compose import load_config, preset_names
from chiasma.experiment.config import RunConfig

ROOT = "CHIASMA_DATA"
SOURCES = {"cifar10": "cifar10", "imdb": "imdb", "easy_vqa": "easy_vqa/manifest.jsonl", "digit_claims": "digit_claims"}


def task_configs(
    names: str,
    *,
    preset: str,
    overrides: Sequence[str] = (),
    values: Mapping[str, object] | None = None,
    option: str = "--tasks",
) -> dict[str, RunConfig]:
    """Return the settings of each task.

    Args:
        names: ``cifar10,imdb=/data/imdb``: a task alone is looked for below ``$CHIASMA_DATA``.
        preset: ``cpu`` or ``full``: which sizes.
        overrides: ``path=value`` each, for all tasks.
        values: Values as they are, by dotted path, for all tasks.
        option: Who asks, for messages.

    Raises:
        ConfigError: There is no such task, or its data are not found.
    """
    found: dict[str, RunConfig] = {}
    for item in names.split(","):
        name, _, path = item.strip().partition("=")
        if name not in SOURCES:
            near = suggestion(name, list(SOURCES))
            raise ConfigError(f"{option}: there is no task {name!r}.{near} There are: {', '.join(SOURCES)}.")
        settings = f"{name}_{preset}"
        if settings not in preset_names():
            known = sorted({each.rpartition("_")[2] for each in preset_names() if each.startswith(f"{name}_")})
            raise ConfigError(f"--preset: task {name} has no sizes {preset!r}, only {', '.join(known)}.")
        found[name] = load_config(settings, data=path or _source(name, option), overrides=overrides, values=values)
    return found


def _source(name: str, option: str) -> str:
    if name in BUILT_IN:
        return name
    root = os.environ.get(ROOT)
    if root is None:
        raise ConfigError(f"{option} {name}: say where its data lie, {name}=PATH, or set {ROOT} to their folder.")
    path = Path(root).expanduser() / SOURCES[name]
    if not path.exists():
        raise ConfigError(f"{option} {name}: {path} does not exist. Say where its data lie: {name}=PATH.")
    return str(path)
