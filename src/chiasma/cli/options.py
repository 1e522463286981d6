"""Options that several verbs share, written once."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

import typer

from chiasma.core.errors import ConfigError

if TYPE_CHECKING:
    from chiasma.experiment.config import RunConfig

_COLUMNS = "Columns and tasks"
_MACHINE = "Where it runs"

DataArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A manifest (JSONL, CSV, Parquet), a public dataset's folder, hf:NAME, or digit_claims[:hard].",
        show_default="digit_claims, built in",
    ),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, its id or the start of it, or latest.")
]
RunFolder = Annotated[
    str | None,
    typer.Option("--run-folder", metavar="FOLDER", help="Folder that holds the runs.", show_default="runs"),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="SHA256",
        help="Run this generated source of MODEL, which you have read (chiasma trust takes it back).",
        show_default=False,
    ),
]
Generator = Annotated[
    str | None,
    typer.Option(
        "--generator",
        metavar="NAME",
        help="Who writes fusions: grammar, openai (any server that speaks its language), transformers, replay.",
        show_default="grammar",
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="What decides how the next fusion is made: actor_critic, bandit, uniform.",
        show_default="actor_critic",
    ),
]
Replay = Annotated[
    str | None,
    typer.Option("--replay", metavar="RUN", help="The run whose answers --generator replay gives again."),
]
Usd = Annotated[float | None, typer.Option("--usd", metavar="DOLLARS", help="Most that a language model may cost.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", show_default=False)]


def _option(*names: str, help: str, metavar: str | None = None, panel: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, rich_help_panel=panel)


@dataclass(frozen=True)
class Settings:
    """The options from which a verb's ``RunConfig`` is composed; each beats the files and ``--set``."""

    config: Annotated[
        str | None, _option("--config", metavar="NAME|FILE", help="A preset (see chiasma config show) or a YAML file.")
    ] = None
    overrides: Annotated[
        list[str] | None,
        _option("--set", metavar="PATH=VALUE ...", help="Change settings: --set model.dim=512 optim.lr=3e-5"),
    ] = None
    image: Annotated[str | None, _option("--image", metavar="COL", help="Column of images.", panel=_COLUMNS)] = None
    text: Annotated[
        str | None, _option("--text", metavar="COL[,COL]", help="Columns of texts, joined in order.", panel=_COLUMNS)
    ] = None
    label: Annotated[
        str | None,
        _option("--label", metavar="COL[,COL]", help="Column of labels; several are several tasks.", panel=_COLUMNS),
    ] = None
    id: Annotated[str | None, _option("--id", metavar="COL", help="Column of ids.", panel=_COLUMNS)] = None
    split: Annotated[
        str | None, _option("--split", metavar="COL", help="Column with train, select, test.", panel=_COLUMNS)
    ] = None
    group: Annotated[
        str | None, _option("--group", metavar="COL", help="Rows of one group share a split.", panel=_COLUMNS)
    ] = None
    image_dir: Annotated[
        str | None, _option("--image-dir", metavar="FOLDER", help="What image paths are below.", panel=_COLUMNS)
    ] = None
    slices: Annotated[
        str | None,
        _option("--slices", metavar="COL[,COL]", help="Columns by which results are shown apart.", panel=_COLUMNS),
    ] = None
    features: Annotated[
        list[str] | None,
        _option(
            "--features",
            metavar="MODALITY=FILE",
            help="Ready-made tokens (npz, safetensors, h5, lmdb).",
            panel=_COLUMNS,
        ),
    ] = None
    task: Annotated[
        str | None,
        _option(
            "--task",
            metavar="TASK",
            help="auto, classification, multilabel, regression, contrastive or generation.",
            panel=_COLUMNS,
        ),
    ] = None
    seed: Annotated[int | None, _option("--seed", help="All randomness follows from it.", panel=_MACHINE)] = None
    workers: Annotated[int | None, _option("--workers", help="Worker processes.", panel=_MACHINE)] = None
    device: Annotated[
        str | None, _option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.", panel=_MACHINE)
    ] = None
    run_folder: Annotated[
        str | None, _option("--run-folder", metavar="FOLDER", help="Folder that holds the runs.", panel=_MACHINE)
    ] = None
    name: Annotated[
        str | None, _option("--name", metavar="WORD", help="A word that joins the run's id.", panel=_MACHINE)
    ] = None
    trust: Annotated[
        list[str] | None,
        _option(
            "--trust",
            metavar="SHA256",
            help="Run this generated source, which you have read (chiasma trust takes it back).",
            panel=_MACHINE,
        ),
    ] = None
    debug: Annotated[bool, _option("--debug", help="Show the traceback of an error.", panel=_MACHINE)] = False
    homes: ClassVar[dict[str, str]] = {
        "image": "data.columns.image",
        "label": "data.columns.label",
        "id": "data.columns.id",
        "split": "data.columns.split",
        "group": "data.columns.group",
        "image_dir": "data.image_dir",
        "task": "data.task",
        "seed": "run.seed",
        "workers": "run.workers",
        "device": "run.device",
        "run_folder": "run.folder",
        "name": "run.name",
    }

    def config_for(self, data: str | None, *, also: Mapping[str, Any] | None = None, **values: Any) -> "RunConfig":
        """Return the composed settings, after approving what ``--trust`` names in them.

        Args:
            data: The DATA argument.
            also: What else holds source that ``--trust`` may name: specs, by the names that a user knows them by.
            values: More settings of the verb, by dotted path with ``__`` for the dot; None leaves a setting alone.

        Raises:
            ConfigError: A key is unknown, a file is missing, a value breaks its rule, or ``--trust`` names nothing.
        """
        from chiasma.experiment.compose import load_config

        given = self.values() | {name.replace("__", "."): value for name, value in values.items() if value is not None}
        config = load_config(self.config, data=data, overrides=self.overrides or (), values=given)
        self.approve({"model.fusion": config.model.fusion, **(also or {})})
        return config

    def approve(self, places: Mapping[str, Any]) -> None:
        """Approve what ``--trust`` names in these specs; errors as in :func:`chiasma.experiment.trusting.trust`."""
        trust_sources(self.trust, places)

    def values(self) -> dict[str, Any]:
        """Return the settings that the options name, by dotted path."""
        chosen: dict[str, Any] = {home: getattr(self, name) for name, home in self.homes.items()}
        if self.text is not None:
            chosen["data.columns.text"] = [name.strip() for name in self.text.split(",")]
        if self.slices is not None:
            chosen["data.slices"] = [name.strip() for name in self.slices.split(",")]
        if self.label is not None and "," in self.label:
            chosen["data.columns.label"] = [name.strip() for name in self.label.split(",")]
        chosen |= {
            f"data.features.{modality}": file for modality, file in files_by_modality(self.features or ()).items()
        }
        return {path: value for path, value in chosen.items() if value is not None}


def writing(generator: str | None, *, policy: str | None, replay: str | None, usd: float | None) -> dict[str, Any]:
    """Return the settings of who writes fusions, as :meth:`Settings.config_for` takes them."""
    return {
        "search__generator": generator,
        "search__policy": policy,
        "search__replay": replay,
        "run__usd": usd,
    }


def takes_settings(*, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of :class:`Settings`, collected into its parameter ``settings``.

    Args:
        without: Options that the verb would ignore, and which it therefore does not offer.
    """
    return functools.partial(_with_settings, without=frozenset(without))


def _with_settings(verb: Callable[..., None], *, without: frozenset[str]) -> Callable[..., None]:
    shared = [item for item in fields(Settings) if item.name not in without]
    hints = get_type_hints(Settings, include_extras=True)
    own = [item for item in inspect.signature(verb, eval_str=True).parameters.values() if item.name != "settings"]
    added = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=hints[item.name])
        for item in shared
    ]

    def with_settings(**values: Any) -> None:
        chosen = {item.name: values.pop(item.name) for item in shared}
        verb(**values, settings=Settings(**chosen))

    functools.update_wrapper(with_settings, verb)
    del with_settings.__wrapped__
    parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own] + added
    with_settings.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    with_settings.__annotations__ = {item.name: item.annotation for item in parameters}
    return with_settings


def trust_sources(hashes: Sequence[str] | None, places: Mapping[str, Any]) -> None:
    """Approve sources, as in :func:`chiasma.experiment.trusting.trust`; nothing is read where none is named."""
    if hashes:
        from chiasma.experiment.trusting import trust

        trust(hashes, places)


def files_by_modality(pairs: Sequence[str]) -> dict[str, str]:
    """Return what the values of ``--features`` name.

    Raises:
        ConfigError: One is not of the form MODALITY=FILE.
    """
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--features {pair}: expected MODALITY=FILE, such as image=tokens.npz.")
    return {modality: file for modality, _, file in (pair.partition("=") for pair in pairs)}


def values_by_name(pairs: Sequence[str]) -> dict[str, Any]:
    """Return what the values of ``--option`` set, read as YAML.

    Raises:
        ConfigError: One is not of the form KEY=VALUE.
    """
    import yaml

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--option {pair}: expected KEY=VALUE, such as threshold=0.3.")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--option {pair}: {text!r} is not a value that YAML can read.") from None
    return values


def examples(*lines: str) -> str:
    """Return the epilog of a verb's help."""
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])


def command_line() -> list[str]:
    """Return what the user typed, for a run's provenance."""
    import sys

    return [Path(sys.argv[0]).name, *sys.argv[1:]]
