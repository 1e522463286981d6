"""What designs are made of: the members of the closed unions, and what third parties add by entry points."""

from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from chiasma.model.attention import AttentionSpec
from chiasma.model.encoders import EncoderSpec
from chiasma.model.fusion import FusionSpec
from chiasma.model.heads import HeadSpec
from chiasma.model.plugins import Plugin, installed
from chiasma.train.design import LossSpec, OptimSpec

_PLUGIN_GROUPS = ("encoder", "fusion", "attention", "model")


@dataclass(frozen=True)
class Component:
    """One kind of one part of a design, with the first sentence of its documentation."""

    part: str
    kind: str
    summary: str


def components() -> list[Component]:
    """Return every component that a design can name, by part."""
    unions: dict[str, Any] = {
        "encoder": EncoderSpec,
        "attention": AttentionSpec,
        "fusion": FusionSpec,
        "head": HeadSpec,
        "loss": LossSpec,
        "optimiser": OptimSpec.model_fields["algorithm"].annotation,
        "schedule": OptimSpec.model_fields["schedule"].annotation,
    }
    own = [_component(part, member) for part, union in unions.items() for member in members(union)]
    added = [
        Component(part, f"plugin {name}", point.value)
        for part in _PLUGIN_GROUPS
        for name, point in sorted(installed(f"chiasma.{part}").items())
    ]
    return own + added


def members(union: Any) -> list[type[BaseModel]]:
    """Return the spec classes of a union, without the door for plugins."""
    if get_origin(union) is Annotated:
        return members(get_args(union)[0])
    found = [union] if isinstance(union, type) else [m for option in get_args(union) for m in members(option)]
    return [member for member in found if not issubclass(member, Plugin)]


def _component(part: str, member: type[BaseModel]) -> Component:
    summary = (member.__doc__ or "").strip().splitlines()[0]
    return Component(part, member.model_fields["kind"].default, summary)
