"""Third-party components, found by entry point and checked by their own spec."""

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Literal, cast

from pydantic import model_validator

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, suggestion


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


def spec_class(group: str, name: str) -> Any:
    """Import what a plugin's entry point names.

    Raises:
        ConfigError: No plugin of that name is installed; the nearest one is suggested.
    """
    known = installed(group)
    if name not in known:
        raise ConfigError(
            f"No plugin {name!r} is installed under the entry points {group!r}.{suggestion(name, list(known))} "
            f"Installed: {', '.join(sorted(known)) or 'none'}."
        )
    return known[name].load()
