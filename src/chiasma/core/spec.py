"""Frozen, JSON-round-trippable values from which everything is built.

A closed discriminated union of specs is the registry of components: there is no other.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from chiasma.core.errors import ConfigError


class Spec(BaseModel):
    """An immutable value that says what to build; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """Return the canonical text: sorted keys, no spaces. Equal specs give equal texts."""
        return canonical_json(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Build from plain JSON types.

        Args:
            values: What :meth:`to_dict` returned, or what a user wrote.
            where: Put before each path in the error, such as ``"model"``.

        Raises:
            ConfigError: A key is unknown or a value breaks its rule; names the path, the rule and the value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(explain(error, root=cls, where=where)) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from what :meth:`to_json` returned."""
        return cls.from_dict(json.loads(text))

    def content_hash(self) -> str:
        """Return 16 hexadecimal digits that are equal exactly for equal specs."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


S = TypeVar("S", bound=Spec)


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def value_at(spec: Spec, path: str) -> Any:
    """Return the value at a dotted path, through fields, mapping keys and tuple positions.

    Raises:
        ConfigError: The path does not exist; the nearest name is suggested.
    """
    value: Any = spec
    seen: list[str] = []
    for name in path.split("."):
        value = _step(value, name, seen)
        seen.append(name)
    return value


def replace_at(spec: S, path: str, value: Any) -> S:
    """Return a copy of ``spec`` with the value at a dotted path replaced, validated as a whole.

    Putting a discovery to use is one assignment: ``replace_at(design, "model.fusion.attention", found)``.

    Args:
        spec: The value to copy.
        path: Dotted, through fields, mapping keys and tuple positions: ``"model.encoders.image.depth"``.
        value: A spec or plain JSON.

    Raises:
        ConfigError: The path does not exist or the new value breaks a rule.
    """
    *parents, last = path.split(".")
    if parents:
        _step(value_at(spec, ".".join(parents)), last, parents)
    else:
        _step(spec, last, [])
    tree = spec.to_dict()
    place: Any = tree
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    plain = value.to_dict() if isinstance(value, Spec) else value
    if isinstance(place, list):
        place[int(last)] = plain
    else:
        place[last] = plain
    return type(spec).from_dict(tree)


def suggestion(name: str, known: list[str]) -> str:
    """Return `` Did you mean 'x'?`` or an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, *, root: type[BaseModel], where: str = "") -> str:
    """Return one line for a validation error: each path with its rule, the value, and the nearest known key."""
    return "; ".join(_explain_one(item, root, where) for item in error.errors())


def _explain_one(item: Any, root: type[BaseModel], where: str) -> str:
    location = [str(part) for part in item["loc"]]
    path = ".".join([where, *location] if where else location)
    if item["type"] == "extra_forbidden":
        known = _known_keys(root, item["loc"][:-1])
        return f"{path}: unknown key.{suggestion(location[-1], known)} Known here: {', '.join(sorted(known))}."
    value = repr(item["input"])
    shown = value if len(value) <= 80 else value[:77] + "..."
    return f"{path or 'value'}: {item['msg']}, but got {shown}."


def _known_keys(root: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Follow a validation error's location through annotations; discriminator tags pick the union member."""
    options: list[Any] = [root]
    for part in location:
        following: list[Any] = []
        for option in options:
            if part in option.model_fields:
                following += _models_in(option.model_fields[str(part)].annotation)
        tagged = [o for o in options if getattr(o.model_fields.get("kind"), "default", None) == part]
        options = following or tagged or options
    return sorted({name for option in options for name in option.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _step(value: Any, name: str, seen: list[str]) -> Any:
    if isinstance(value, BaseModel):
        known = list(type(value).model_fields)
        if name in known:
            return getattr(value, name)
    elif isinstance(value, Mapping):
        known = [str(key) for key in value]
        if name in value:
            return value[name]
    elif isinstance(value, tuple):
        known = [str(index) for index in range(len(value))]
        if name in known:
            return value[int(name)]
    else:
        known = []
    path = ".".join([*seen, name])
    raise ConfigError(f"{path}: unknown key.{suggestion(name, known)} Known here: {', '.join(known) or 'nothing'}.")
