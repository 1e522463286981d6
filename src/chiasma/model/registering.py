"""From a class with plain arguments to the spec that builds it, so that a decorator is enough to add a component."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any, get_type_hints

from pydantic import Field, create_model

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec


def options_of(cls: type, *, given: Collection[str]) -> dict[str, Any]:
    """Return a pydantic field for each named argument of a class's constructor that a user may set.

    Args:
        cls: The class.
        given: Arguments that are filled in otherwise.

    Raises:
        ConfigError: An argument can only be given by its position.
    """
    hints = get_type_hints(cls.__init__)
    fields: dict[str, Any] = {}
    for name, argument in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if name in given or argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if argument.kind is argument.POSITIONAL_ONLY:
            raise ConfigError(f"{cls.__qualname__}: the argument {name} must be one that can be given by name.")
        default = ... if argument.default is argument.empty else Field(default=argument.default)
        fields[name] = (hints.get(name, Any), default)
    return fields


def spec_of(cls: type, base: type[Spec], *, given: Collection[str], namespace: Mapping[str, Any]) -> type[Spec]:
    """Return a spec class whose fields are the constructor's arguments.

    Args:
        cls: The class to build.
        base: What the spec inherits.
        given: Arguments that are filled in otherwise.
        namespace: Class attributes of the spec.
    """
    fields = options_of(cls, given=given)
    root: Any = type(f"{cls.__name__}Base", (base,), {"__module__": cls.__module__, **namespace})
    make: Any = create_model
    return make(f"{cls.__name__}Settings", __base__=root, __module__=cls.__module__, __doc__=cls.__doc__, **fields)


def accepted(cls: type) -> tuple[frozenset[str], bool]:
    """Return the names of a constructor's arguments, and whether it takes any others."""
    arguments = list(inspect.signature(cls.__init__).parameters.values())[1:]
    anything = any(argument.kind is argument.VAR_KEYWORD for argument in arguments)
    return frozenset(argument.name for argument in arguments), anything
