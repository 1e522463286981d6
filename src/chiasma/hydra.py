"""``python -m chiasma.hydra``: ``chiasma train`` with Hydra's command line, its config groups and its sweeps.

::

    python -m chiasma.hydra optim.epochs=10 data.batch_size=32 tracking.wandb.enabled=true
    python -m chiasma.hydra --config-name cross_attention data.source=memes.jsonl
    python -m chiasma.hydra +preset=growth model.dim=128
    python -m chiasma.hydra -m optim.lr=1e-3,3e-3 run.seed=0,1

Every preset is a config name and an option of the group ``preset``. The composed tree is validated, trained and stored
as that of ``chiasma train``; in a sweep every job is a run of its own. Hydra's own folder for outputs is switched off:
all that is written lies in the run's folder, and ``sweeps/TIME/multirun.yaml`` beside the runs says what a sweep was.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from chiasma.cli.main import FAILURE, INTERRUPTED, StoppedByUserError, report_error
from chiasma.core.errors import ChiasmaError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from chiasma.experiment.config import RunConfig

GROUP = "preset"
ALIASES = {"optim.epochs": "train.epochs", "data.batch_size": "train.batch_size", "wandb": "tracking.wandb"}
"""Names of document 000's settings, and what they are called here; what lies below such a name goes with it."""

FULL_ERROR = "HYDRA_FULL_ERROR"
_OVERRIDE = re.compile(r"(?P<prefix>\+{0,2}|~)(?P<key>[A-Za-z_]\w*(?:\.\w+)*)(?P<rest>=.*)?", re.DOTALL)
_DEFAULT = "default"
_FOLDER = "++run.folder"
_OWN_CONFIGS = ("--config-dir", "-cd", "--config-path", "-cp", "hydra.searchpath", "+hydra.searchpath")
_FOOTER = """
Presets, by --config-name NAME or +preset=NAME:
{presets}

Also understood: {aliases}.
-m optim.lr=1e-3,3e-3 trains one run for each value. The tree is that of `chiasma config show`; `chiasma config schema`
describes every setting. Nothing is written to outputs/ or multirun/: everything lies in the folder of the runs.
"""


class JobFailedError(ChiasmaError):
    """A job of a sweep failed, and its error has been shown."""


class _Uncopied(dict[str, Any]):
    """Configs that Hydra is told of, which copies all of them for every group that it looks at.

    What it takes out of them it copies once more, so nothing is lost by keeping them: ``--help`` took three times as
    long.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Uncopied":
        return self


def main() -> NoReturn:
    """Run the process's own command line through Hydra; leave with 1 after an error, and with 130 after Ctrl-C."""
    debug = os.environ.get(FULL_ERROR) == "1"
    # So that Hydra hands its errors on: they are shown as one line each, like ours.
    os.environ[FULL_ERROR] = "1"
    try:
        code = _launch(sys.argv[1:], debug=debug)
    except JobFailedError:
        code = FAILURE
    except Exception as error:  # noqa: BLE001 the process boundary: whatever went wrong becomes one line
        code = _failed(error, debug=debug)
    sys.exit(code)


def rewritten(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a command line in the names and prefixes that Hydra needs, and what a user should know of it.

    Aliases get their names here. A setting is forced into the tree (``++``), so that one that does not exist is refused
    by the tree itself, with the nearest name, and not by Hydra.
    """
    own_groups = any(word.partition("=")[0] in _OWN_CONFIGS for word in words)
    changed: list[str] = []
    notes: list[str] = []
    for word in words:
        match = _OVERRIDE.fullmatch(word)
        if match is None or (match["rest"] is None and match["prefix"] != "~"):
            changed.append(word)
            continue
        prefix, key = match["prefix"], match["key"]
        name = _real_name(key)
        if name != key:
            notes.append(f"{key} is called {name} here")
        if not prefix and name == GROUP:
            prefix = "+"
        elif not prefix and name.split(".")[0] != "hydra" and ("." in name or not own_groups):
            prefix = "++"
        changed.append(f"{prefix}{name}{match['rest'] or ''}")
    return changed, notes


def _real_name(key: str) -> str:
    for alias, name in ALIASES.items():
        if key == alias or key.startswith(f"{alias}."):
            return name + key[len(alias) :]
    return key


def _runs_folder(words: Sequence[str]) -> str:
    """Return the folder that the command line names for runs, or the usual one."""
    from chiasma.store.folders import runs_root

    named = [value for name, equals, value in (word.partition("=") for word in words) if equals and name == _FOLDER]
    return named[-1] if named else str(runs_root())


def _launch(words: Sequence[str], *, debug: bool) -> int:
    """Have Hydra compose and run, and return the exit code."""
    try:
        import hydra
    except ImportError:
        raise ConfigError("python -m chiasma.hydra needs Hydra: pip install 'chiasma[hydra]'") from None
    from chiasma.cli.options import command_line

    command = command_line()
    changed, notes = rewritten(words)
    store_configs(_runs_folder(changed))
    failures: list[int] = []

    def train(_: "DictConfig") -> float | None:
        try:
            return _train_job(command, notes)
        except Exception as error:
            if isinstance(error, StoppedByUserError):
                sys.exit(_failed(error, debug=debug))
            failures.append(_failed(error, debug=debug))
            if _is_sweep():
                # Hydra adds which job it was, and a sweeper learns of it.
                raise JobFailedError(str(error)) from error
            return None

    sys.argv = [sys.argv[0], *changed]
    hydra.main(version_base="1.3", config_path=None, config_name=_DEFAULT)(train)()
    return FAILURE if failures else 0


def _train_job(command: Sequence[str], notes: Sequence[str]) -> float | None:
    """Train what Hydra has composed for this job, and return what decides, so that a sweeper can follow it.

    None where another of several processes has the result.
    """
    import typer

    from chiasma.cli.display import progress
    from chiasma.cli.results_table import print_run
    from chiasma.experiment.train_run import train

    config = job_config()
    with progress() as console:
        for note in [*notes, *_job_words()]:
            console.say(note)
        result = train(config, console=console, command=command)
    if result is None:
        return None
    try:
        print_run(result)
    except typer.Exit:
        # Ctrl-C ends a whole sweep.
        sys.exit(INTERRUPTED)
    winner = next(arm for arm in result.results.arms if arm.name == result.results.winner)
    return winner.select[result.results.metric]


def job_config() -> "RunConfig":
    """Return the settings of the job that Hydra is running, exactly those of ``chiasma train`` with the same words.

    Hydra merges key by key. Here, as everywhere in Chiasma, a component of another kind replaces the one below it, so
    presets and settings are laid over what Hydra composes of the rest.

    Raises:
        ConfigError: A key is unknown or a value breaks its rule.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from chiasma.experiment.compose import config_of, merge, read_layer

    job = HydraConfig.get()
    overrides = OverridesParser.create().parse_overrides([str(word) for word in job.overrides.task])
    choices = [override for override in overrides if override.key_or_group in {GROUP, *job.runtime.choices}]
    groups = [str(each.input_line) for each in choices if each.key_or_group != GROUP]
    composed = OmegaConf.to_container(hydra.compose(job.job.config_name, overrides=groups), throw_on_missing=True)
    assert isinstance(composed, dict)
    tree: dict[str, Any] = {str(key): value for key, value in composed.items()}
    named = [each.value() for each in choices if each.key_or_group == GROUP and not each.is_delete()]
    for name in (name for value in named for name in (value if isinstance(value, list) else [value])):
        tree = merge(tree, read_layer(str(name)))
    for override in overrides:
        if override in choices:
            continue
        path = override.key_or_group.split(".")
        tree = _without(tree, path) if override.is_delete() else merge(tree, _nested(path, override.value()))
    return config_of(tree)


def store_configs(runs: str) -> None:
    """Tell Hydra of every preset: as a config over the defaults, and as an option of the group ``preset``.

    Args:
        runs: Folder that holds the runs; sweeps are noted there.
    """
    from hydra.core.config_store import ConfigStore

    from chiasma.experiment.compose import preset_names, preset_title, read_layer
    from chiasma.experiment.config import RunConfig

    width = max(len(name) for name in preset_names())
    presets = "\n".join(f"  {name:<{width}}  {preset_title(name)}" for name in preset_names())
    aliases = ", ".join(f"{alias} for {name}" for alias, name in ALIASES.items())
    of_hydra = {
        "run": {"dir": "."},
        "sweep": {"dir": f"{runs}/sweeps/${{now:%Y%m%d-%H%M%S}}", "subdir": "."},
        "output_subdir": None,
        # Standard output is for results, and loggers are ours: what Hydra would say of jobs, a job says itself.
        "hydra_logging": {"root": None},
        "job_logging": {"root": None},
        "help": {
            "app_name": "chiasma",
            "header": "Train one design, as `chiasma train` does, with Hydra's overrides and sweeps.",
            "footer": _FOOTER.format(presets=presets, aliases=aliases),
        },
    }
    store = ConfigStore.instance()
    store.repo = _Uncopied(store.repo)
    store.store(name=_DEFAULT, node={**_bare(RunConfig()), "hydra": of_hydra})
    if GROUP in store.repo:  # Presets are the same for every job of this process.
        return
    for name in preset_names():
        layer = read_layer(name)
        store.store(name=name, node=layer, group=GROUP, package="_global_")
        if name != _DEFAULT:
            # Only one of them is the whole tree: the others are laid over it.
            store.store(name=name, node={"defaults": [_DEFAULT, "_self_"], **layer})


def _bare(value: Any) -> Any:
    """Return settings as plain JSON, of components their kind alone, so that another kind can take their place."""
    from chiasma.core.spec import Spec

    if isinstance(value, Spec):
        fields = type(value).model_fields
        kept = [name for name in fields if "kind" not in fields or name == "kind"]
        return {name: _bare(getattr(value, name)) for name in kept}
    if isinstance(value, Mapping):
        return {str(name): _bare(item) for name, item in value.items()}
    return [_bare(item) for item in value] if isinstance(value, tuple) else value


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


def _without(tree: Any, path: Sequence[str]) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    name, *rest = path
    left = {key: item for key, item in tree.items() if key != name}
    return {**left, name: _without(tree[name], rest)} if rest and name in tree else left


def _job_words() -> list[str]:
    """Return which job of a sweep this is; nothing for a single run."""
    from hydra.core.hydra_config import HydraConfig

    if not _is_sweep():
        return []
    job = HydraConfig.get()
    return [f"job {job.job.num}: {' '.join(str(word).lstrip('+') for word in job.overrides.task)}"]


def _is_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def _failed(error: Exception, *, debug: bool) -> int:
    """Show an error in one line, and return the exit code."""
    from omegaconf.errors import OmegaConfBaseException

    foreign = type(error).__module__.startswith("hydra.") or isinstance(error, OmegaConfBaseException)
    if foreign:
        # An error of the grammar knows the word that it is about, and does not say it.
        word = getattr(error, "override", None)
        text = f"{word}: {error}" if word else f"{error} {error.__cause__ or ''}"
        error = ConfigError(" ".join(text.split())).with_traceback(error.__traceback__)
    code = report_error(error, debug=debug, traceback_by=f"{FULL_ERROR}=1")
    return INTERRUPTED if code == INTERRUPTED else FAILURE


if __name__ == "__main__":
    main()
