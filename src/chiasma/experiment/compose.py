"""From presets, files and ``--set`` to one validated :class:`RunConfig`."""

import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from chiasma.core.errors import ConfigError
from chiasma.core.spec import suggestion
from chiasma.data.digit_claims import SOURCES as BUILT_IN
from chiasma.experiment.config import RunConfig
from chiasma.experiment.discoveries import with_discoveries
from chiasma.experiment.learned_controllers import check_start, pinned

_PATHS = (
    ("data", "source"),
    ("data", "image_dir"),
    ("controller", "start"),
    ("run", "folder"),
    ("run", "cache"),
)


def load_config(
    name_or_path: str | None = None,
    *,
    data: str | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Compose settings and validate them as a whole.

    Later wins: defaults, the preset or file (over what it includes), ``data``, ``overrides``, ``values``. Where two
    layers choose different kinds of a component (``kind: concat`` over ``kind: gated``), the later replaces the
    earlier whole.

    Args:
        name_or_path: A preset's name or a YAML file; None for the defaults.
        data: The data source.
        overrides: ``path=value`` each, the value in YAML: ``optim.lr=3e-5``, ``data.columns.text=[question,choices]``.
        values: Values as they are, by dotted path.

    Raises:
        ConfigError: A key is unknown, a file is missing, or a value breaks its rule; names the path and the value.
    """
    tree = read_layer(name_or_path) if name_or_path else {}
    if data is not None:
        tree = merge(tree, {"data": {"source": data}})
    for override in overrides:
        tree = merge(tree, parse_override(override))
    for path, value in (values or {}).items():
        tree = merge(tree, _nested(path.split("."), value))
    return config_of(tree)


def config_of(tree: Mapping[str, Any]) -> RunConfig:
    """Return the settings of a composed tree over the defaults: discoveries looked up, ``${...}`` filled in, validated.

    Raises:
        ConfigError: A key is unknown, a value breaks its rule, or a learned controller does not fit; names the path and
            the value.
    """
    section = tree.get("run")
    found = with_discoveries(dict(tree), run_folder=section.get("folder") if isinstance(section, Mapping) else None)
    config = RunConfig.from_dict(pinned(_absolute(_resolve(merge(RunConfig().to_dict(), found)))))
    check_start(config.controller)
    return config


def parse_override(text: str) -> dict[str, Any]:
    """Return ``{"optim": {"lr": 3e-05}}`` for ``optim.lr=3e-5``.

    Raises:
        ConfigError: There is no ``=``, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    names = path.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {text}: expected path=value, such as optim.lr=3e-5.")
    try:
        # OmegaConf's YAML reads 3e-5 as a number; plain YAML 1.1 reads it as text.
        tree = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {_first_line(error)}") from None
    assert isinstance(tree, dict)
    return _nested(names, tree["value"])


def _nested(names: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(names[1:]):
        value = {name: value}
    return {names[0]: value}


def preset_names() -> list[str]:
    """Return the names that ``--config`` finds without a path."""
    files = importlib.resources.files("chiasma.presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def preset_title(name: str) -> str:
    """Return the first comment of a preset: what it is for."""
    first = importlib.resources.files("chiasma.presets").joinpath(f"{name}.yaml").read_text().splitlines()[0]
    return first.lstrip("# ").strip()


def read_layer(name_or_path: str, *, beside: Path | None = None, including: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the tree of one preset or file over the trees it includes, without the defaults.

    Raises:
        ConfigError: There is no such preset or file, or it is not YAML.
    """
    name, text, folder = _find(name_or_path, beside)
    if name in including:
        raise ConfigError(f"Config {name} includes itself: {' -> '.join([*including, name])}.")
    tree = _parse(text, name)
    includes = tree.pop("include", [])
    if not isinstance(includes, list) or not all(isinstance(item, str) for item in includes):
        raise ConfigError(f"Config {name}: include must be a list of names or files, but got {includes!r}.")
    merged: dict[str, Any] = {}
    for item in includes:
        merged = merge(merged, read_layer(item, beside=folder, including=(*including, name)))
    return merge(merged, tree)


def _find(name_or_path: str, beside: Path | None) -> tuple[str, str, Path | None]:
    """Return a config's name, its text, and the folder in which its includes are looked for."""
    names = preset_names()
    if name_or_path in names:
        file = importlib.resources.files("chiasma.presets").joinpath(f"{name_or_path}.yaml")
        return name_or_path, file.read_text(encoding="utf-8"), None
    path = Path(name_or_path).expanduser()
    path = beside / path if beside is not None else path
    if not path.is_file():
        near = suggestion(name_or_path, names)
        raise ConfigError(
            f"No config {name_or_path!r}: neither a file nor a preset.{near} Presets: {', '.join(names)}."
        )
    try:
        return str(path), path.read_text(encoding="utf-8"), path.resolve().parent
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read config {path}: {_first_line(error)}") from None


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else {}
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"Config {name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"Config {name} must hold settings by name, but it holds a {type(tree).__name__}.")
    return {str(key): value for key, value in tree.items()}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return one tree over another; a component of another kind replaces the one below it whole."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if not isinstance(old, Mapping) or not isinstance(value, Mapping):
            merged[key] = value
        elif "kind" in value and "kind" in old and value["kind"] != old["kind"]:
            merged[key] = dict(value)
        else:
            merged[key] = merge(old, value)
    return merged


def _resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """Fill in ``${...}``."""
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{where}{_first_line(error)}") from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _absolute(tree: dict[str, Any]) -> dict[str, Any]:
    """Make relative paths absolute, so that a run can be resumed from another folder."""
    for section, name in _PATHS:
        place = tree.get(section)
        if isinstance(place, dict) and isinstance(place.get(name), str):
            place[name] = _whole_path(place[name], built_in=name == "source")
    for place in _published_places(tree):
        if isinstance(place.get("name"), str) and Path(place["name"]).expanduser().exists():
            place["name"] = str(Path(place["name"]).expanduser().resolve())
    captions = tree["data"].get("captions") if isinstance(tree.get("data"), dict) else None
    if isinstance(captions, dict) and isinstance(captions.get("file"), str):
        captions["file"] = _whole_path(captions["file"], built_in=False)
    features = tree["data"].get("features") if isinstance(tree.get("data"), dict) else None
    if isinstance(features, dict):
        for modality, file in features.items():
            features[modality] = _whole_path(file, built_in=False) if isinstance(file, str) else file
    return tree


def _published_places(tree: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield where a name may be a folder: of pretrained encoders and weights, a tokenizer, an image processor."""
    encoders = tree["model"].get("encoders") if isinstance(tree.get("model"), dict) else None
    for encoder in encoders.values() if isinstance(encoders, dict) else ():
        if isinstance(encoder, dict) and encoder.get("kind") == "pretrained":
            yield encoder
    data = tree["data"] if isinstance(tree.get("data"), dict) else {}
    fusion = tree["model"].get("fusion") if isinstance(tree.get("model"), dict) else None
    captions = data.get("captions")
    for section, key in (
        (data, "tokenizer"),
        (data, "image_processor"),
        (fusion if isinstance(fusion, dict) else {}, "weights"),
        (captions if isinstance(captions, dict) else {}, "model"),
    ):
        if isinstance(section.get(key), str):
            section[key] = {"name": section[key]}
        if isinstance(section.get(key), dict):
            yield section[key]


def _whole_path(text: str, *, built_in: bool) -> str:
    """Return an absolute path; what may be a mistyped built-in name is left for the reader of data to judge."""
    path = Path(text).expanduser()
    if built_in and (text in BUILT_IN or not path.exists()):
        return text
    return str(path.resolve())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
