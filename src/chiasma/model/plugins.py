"""Third-party components, found by entry point and checked by their own spec."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, suggestion

GROUPS = ("chiasma.encoder", "chiasma.fusion", "chiasma.attention", "chiasma.model")


class Plugin(Spec):
    """A component of a third party: an installed package names its spec class in an entry point.

    The entry point's object is a :class:`~chiasma.core.spec.Spec` whose ``build`` takes what the union's own members
    take. Its fields are this spec's ``options``, with defaults filled in so that equal designs have equal hashes.

    Attributes:
        name: Name of the entry point.
        options: What the plugin's own spec is built from.
    """

    group: ClassVar[str]

    kind: Literal["plugin"] = "plugin"
    name: str
    options: Mapping[str, Any] = {}

    def resolve(self) -> Spec:
        """Return the plugin's own spec.

        Raises:
            ConfigError: No such plugin is installed, or its spec refuses the options.
        """
        return _spec_class(self.group, self.name).from_dict(self.options, where=f"plugin {self.name!r} options")

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        complete = self.resolve().to_dict()
        if complete != dict(self.options):
            # The object is still being built; nobody has seen the incomplete options yet.
            object.__setattr__(self, "options", complete)
        return self


class ModelPlugin(Plugin):
    """A whole model of a third party: it replaces encoders, fusion and head."""

    group: ClassVar[str] = "chiasma.model"


def installed(group: str) -> dict[str, EntryPoint]:
    """Return the installed plugins of one group, by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=group)}


def _spec_class(group: str, name: str) -> type[Spec]:
    known = installed(group)
    if name not in known:
        raise ConfigError(
            f"No plugin {name!r} is installed in the entry points {group!r}.{suggestion(name, list(known))} "
            f"Installed: {', '.join(sorted(known)) or 'none'}."
        )
    found = known[name].load()
    if not (isinstance(found, type) and issubclass(found, Spec)):
        raise ConfigError(
            f"Plugin {name!r} in {group!r} must be a subclass of chiasma.core.spec.Spec, but is {found!r}."
        )
    return found
