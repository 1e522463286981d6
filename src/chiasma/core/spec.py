"""Frozen, JSON-round-trippable values from which everything is built.

A closed discriminated union of specs is the registry of components: there is no other.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, cast, get_args, get_origin

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
        return canonical_json(_without_negative_zero(self.to_dict()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Build from plain JSON types.

        Args:
            values: What :meth:`to_dict` returned, or what a user wrote.
            where: Put before each path in the error, such as ``"model"``.

        Raises:
            ConfigError: A key is unknown or a value breaks its rule; names the path, the rule and the value.
        """
        if not isinstance(values, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"{where or cls.__name__}: must be a mapping of keys to values, but got {values!r}.")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(explain(error, root=cls, where=where)) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from what :meth:`to_json` returned.

        Raises:
            ConfigError: The text is not JSON, repeats a key, or breaks a rule.
        """
        try:
            values = strict_json(text)
        except ValueError as error:
            raise ConfigError(f"{cls.__name__}: the text is not usable JSON: {error}.") from None
        return cls.from_dict(values)

    def content_hash(self) -> str:
        """Return 16 hexadecimal digits that are equal exactly for equal specs."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


S = TypeVar("S", bound=Spec)

_TAG = "kind"


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def strict_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, repeats a key, holds NaN or an infinity, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
    value_at(spec, path)
    return type(spec).from_dict(_put(spec.to_dict(), path.split("."), value))


def _put(tree: Any, path: Sequence[str], value: Any) -> Any:
    """Return plain JSON with one place replaced."""
    if not path:
        return value.to_dict() if isinstance(value, Spec) else value
    name, *rest = path
    if isinstance(tree, list):
        items = cast("list[Any]", tree)
        return [_put(item, rest, value) if str(index) == name else item for index, item in enumerate(items)]
    return {**tree, name: _put(tree[name], rest, value)}


def suggestion(name: str, known: list[str]) -> str:
    """Return `` Did you mean 'x'?`` or an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, *, root: type[BaseModel], where: str = "") -> str:
    """Return one line for a validation error: each path with its rule, the value, and the nearest known key."""
    return "; ".join(_explain_one(item, root, where) for item in error.errors())


def _explain_one(item: Any, root: type[BaseModel], where: str) -> str:
    location, rule, context = item["loc"], item["type"], item.get("ctx", {})
    shown, standing = _follow(root, location)
    path = ".".join([where, *shown] if where else shown)
    if rule == "extra_forbidden":
        _, models = _follow(root, location[:-1])
        known = sorted({name for model in models for name in model.model_fields})
        return f"{path}: unknown key.{suggestion(str(location[-1]), known)} Known here: {', '.join(known)}."
    if rule == "missing":
        return f"{path}: is required, but it is missing."
    if rule == "value_error":
        return f"{path or root.__name__}: {context['error']}".rstrip(".") + "."
    if rule == "union_tag_invalid":
        known = re.findall(r"'([^']+)'", context["expected_tags"])
        near = suggestion(context["tag"], known)
        return f"{path}.{_TAG}: {context['tag']!r} is unknown.{near} Known here: {', '.join(known)}."
    if rule == "union_tag_not_found":
        tags = sorted(str(_tag_of(model)) for model in standing)
        return f"{path}.{_TAG}: is required, but it is missing. Known here: {', '.join(tags)}."
    value = repr(item["input"])
    short = value if len(value) <= 80 else value[:77] + "..."
    near = suggestion(str(item["input"]), re.findall(r"'([^']+)'", str(context.get("expected", ""))))
    return f"{path or 'value'}: {item['msg']}, but got {short}.{near}"


def _follow(root: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """Follow a validation error's location through annotations.

    Returns:
        The path as a user writes it, without the tags that pick a union's member; and the models that stand there.
    """
    options: list[Any] = [root]
    shown: list[str] = []
    for part in location:
        tagged = [o for o in options if _is_model(o) and part == _tag_of(o)]
        if len(tagged) and len(options) > 1:
            options = tagged
            continue
        shown.append(str(part))
        options = [member for option in options for member in _members(_inside(option, part))]
    return shown, [option for option in options if _is_model(option)]


def _inside(annotation: Any, part: int | str) -> Any:
    """Return the annotation one step into a model's field, a mapping's value or a tuple's item; None outside."""
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return None if field is None else field.annotation
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if not isinstance(origin, type) or not arguments:
        return None
    if issubclass(origin, Mapping):
        return arguments[1]
    if issubclass(origin, tuple) and isinstance(part, int) and arguments[-1] is not Ellipsis:
        return arguments[part] if part < len(arguments) else None
    return arguments[0]


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tag_of(model: type[BaseModel]) -> Any:
    return getattr(model.model_fields.get(_TAG), "default", None)


def _step(value: Any, name: str, seen: list[str]) -> Any:
    inside = _children(value)
    if name in inside:
        return inside[name]
    path = ".".join([*seen, name])
    known = list(inside)
    raise ConfigError(f"{path}: unknown key.{suggestion(name, known)} Known here: {', '.join(known) or 'nothing'}.")


def _children(value: Any) -> dict[str, Any]:
    """Return what a path can step into, by the name it has in a path."""
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): item for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, tuple | list):
        return {str(index): item for index, item in enumerate(cast("Sequence[Any]", value))}
    return {}


def _without_negative_zero(value: Any) -> Any:
    """Make the text of equal values equal: -0.0 equals 0.0 but reads otherwise."""
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, dict):
        return {name: _without_negative_zero(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_without_negative_zero(item) for item in cast("list[Any]", value)]
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {repeated!r} is there twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")
