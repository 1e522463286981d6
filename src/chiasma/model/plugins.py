"""Third-party components, found by entry point and checked by their own spec."""

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import model_validator

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, suggestion

VARIABLE = "CHIASMA_PLUGINS"
"""Modules whose import registers components, by name or as files, separated as in ``PATH``.

An environment variable, because worker processes inherit it and nothing that is read from data or runs can set it.
"""

_registered: dict[tuple[str, str], type[Spec]] = {}
_stands_for: dict[type, type[Spec]] = {}


class Plugin(Spec):
    """A component of a third party: an installed package names its spec class in an entry point.

    The plugin's own spec is built from ``options``; its defaults are filled in, so that equal designs have equal
    hashes. The spec class must inherit the settings class of its union, which says what ``build`` takes.

    Attributes:
        name: Name of the entry point.
        options: What the plugin's own spec is built from.
    """

    group: ClassVar[str]
    settings: ClassVar[type[Spec]]

    kind: Literal["plugin"] = "plugin"
    name: str
    options: Mapping[str, Any] = {}

    def resolve(self) -> Spec:
        """Return the plugin's own spec.

        Raises:
            ConfigError: No such plugin is installed, it is of the wrong class, or its spec refuses the options.
        """
        found = spec_class(self.group, self.name)
        if not (isinstance(found, type) and issubclass(found, self.settings)):
            wanted = f"{self.settings.__module__}.{self.settings.__name__}"
            raise ConfigError(
                f"Plugin {self.name!r} in {self.group!r} must be a subclass of {wanted}, but is {found!r}."
            )
        return found.from_dict(self.options, where=f"options of plugin {self.name!r}")

    @model_validator(mode="after")
    def _fill_in_options(self) -> "Plugin":
        # The object is still being made, so nobody has seen the incomplete options.
        object.__setattr__(self, "options", self.resolve().to_dict())
        return self


def plugins_of(spec: Spec) -> Iterator[Plugin]:
    """Yield every plugin that stands anywhere inside a spec."""
    if isinstance(spec, Plugin):
        yield spec
    for name in type(spec).model_fields:
        yield from _plugins_in(getattr(spec, name))


def _plugins_in(value: Any) -> Iterator[Plugin]:
    if isinstance(value, Spec):
        yield from plugins_of(value)
    elif isinstance(value, Mapping):
        for item in cast("Mapping[str, Any]", value).values():
            yield from _plugins_in(item)


def installed(group: str) -> dict[str, EntryPoint]:
    """Return the installed plugins of one group, by name; nothing of them is imported."""
    return {point.name: point for point in entry_points(group=group)}


def plugin_names(group: str) -> list[str]:
    """Return the names of the plugins of one group, installed or registered.

    Raises:
        ConfigError: A module that the environment names cannot be imported.
    """
    _import_named()
    return sorted({*installed(group), *(name for where, name in _registered if where == group)})


def register(group: str, name: str, spec: type[Spec], *, of: type) -> None:
    """Make a class known under a name, in this process and in the worker processes that it starts.

    Args:
        group: As of an entry point.
        name: What a config calls it.
        spec: What builds it.
        of: The class; an entry point may name it in place of its spec.

    Raises:
        ConfigError: Another class has that name.
    """
    known = next((each for each, own in _stands_for.items() if own is _registered.get((group, name))), None)
    if known is not None and (known.__module__, known.__qualname__) != (of.__module__, of.__qualname__):
        raise ConfigError(
            f"{group} {name!r} is {known.__module__}.{known.__qualname__} already, so that "
            f"{of.__module__}.{of.__qualname__} needs another name."
        )
    _registered[group, name] = spec
    _stands_for[of] = spec
    _name_for_workers(of)


def spec_class(group: str, name: str) -> Any:
    """Import what a plugin's entry point names, or return what was registered under the name.

    Raises:
        ConfigError: No plugin of that name is installed or registered; the nearest one is suggested.
    """
    known = installed(group)
    if name in known:
        found = known[name].load()
        return _stands_for.get(found, found)
    names = plugin_names(group)
    if (group, name) not in _registered:
        raise ConfigError(
            f"No plugin {name!r} is installed under the entry points {group!r}.{suggestion(name, names)} "
            f"Installed: {', '.join(names) or 'none'}. A module that registers one is named in {VARIABLE}."
        )
    return _registered[group, name]


def _import_named() -> None:
    for place in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        _import_once(place)


@functools.cache
def _import_once(place: str) -> None:
    try:
        if not place.endswith(".py"):
            importlib.import_module(place)
            return
        path = Path(place)
        if any(getattr(module, "__file__", None) == str(path) for module in list(sys.modules.values())):
            return
        found = importlib.util.spec_from_file_location(path.stem, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[path.stem] = module
        found.loader.exec_module(module)
    except (ImportError, OSError, SyntaxError) as error:
        raise ConfigError(f"{VARIABLE}: {place} cannot be imported: {error}") from error


def _name_for_workers(of: type) -> None:
    """Have worker processes import the module of a class; a script that is running cannot be imported again."""
    module = sys.modules.get(of.__module__)
    file = getattr(module, "__file__", None)
    if of.__module__ == "__main__" or file is None:
        return
    place = of.__module__ if "." in of.__module__ else str(file)
    known = [each for each in os.environ.get(VARIABLE, "").split(os.pathsep) if each]
    if of.__module__ not in known and place not in known:
        os.environ[VARIABLE] = os.pathsep.join([*known, place])
