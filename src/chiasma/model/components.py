"""Every component there is: the closed unions, and the plugins that are installed."""

import inspect
from dataclasses import dataclass
from typing import Any, get_args

from chiasma.core.spec import Spec
from chiasma.model.attention import AttentionPlugin, AttentionSpec
from chiasma.model.encoders import EncoderPlugin, EncoderSpec
from chiasma.model.encoders.extractor import ExtractorPlugin
from chiasma.model.encoders.extractors import ExtractorSpec
from chiasma.model.fusion import FusionPlugin, FusionSpec
from chiasma.model.heads import HeadSpec
from chiasma.model.plugins import Plugin, installed, spec_class
from chiasma.model.trunk.members import MemberSpec
from chiasma.model.whole import ModelPlugin

UNIONS = {
    "encoder": EncoderSpec,
    "fusion": FusionSpec,
    "attention": AttentionSpec,
    "member": MemberSpec,
    "head": HeadSpec,
    "extractor": ExtractorSpec,
}
PLUGINS: dict[str, type[Plugin]] = {
    "encoder": EncoderPlugin,
    "fusion": FusionPlugin,
    "attention": AttentionPlugin,
    "model": ModelPlugin,
    "extractor": ExtractorPlugin,
}


@dataclass(frozen=True)
class Component:
    """One line of ``chiasma list components``.

    Attributes:
        part: Where it goes: encoder, fusion, attention, member (of a trunk), head, model, or extractor (of features).
        name: What a config calls it: its kind, or ``plugin:NAME``.
        spec: Its spec class, as a dotted path.
        summary: The first line of its documentation.
        origin: ``chiasma``, or the package that brought it.
    """

    part: str
    name: str
    spec: str
    summary: str
    origin: str


def members(part: str) -> list[type[Spec]]:
    """Return our own spec classes of one union of :data:`UNIONS`, without the plugin."""
    union, _ = get_args(UNIONS[part])
    classes = get_args(union) or (union,)
    return [member for member in classes if not issubclass(member, Plugin)]


def list_components() -> list[Component]:
    """Return our own components part by part, then the installed plugins, each of which is imported to be described."""
    ours = [
        _describe(part, member.model_fields["kind"].default, member, "chiasma")
        for part in UNIONS
        for member in members(part)
    ]
    theirs = []
    for part, plugin in PLUGINS.items():
        for name, point in sorted(installed(plugin.group).items()):
            origin = "unknown" if point.dist is None else f"{point.dist.name} {point.dist.version}"
            theirs.append(_describe(part, f"plugin:{name}", spec_class(plugin.group, name), origin))
    return ours + theirs


def _describe(part: str, name: str, spec: Any, origin: str) -> Component:
    lines = (inspect.getdoc(spec) or "").splitlines()
    return Component(part, name, f"{spec.__module__}.{spec.__qualname__}", lines[0] if lines else "", origin)
