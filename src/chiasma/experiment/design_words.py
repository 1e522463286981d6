"""Designs, their parts and their outcomes in words."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.core.spec import Spec
from chiasma.model.encoders.pretrained import Backbone
from chiasma.model.fusion import Composed, Generated
from chiasma.model.fusion.composed.formula import formula as fusion_formula
from chiasma.model.fusion.composed.tree import FusionTree
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.graph.formula import formula
from chiasma.train.design import Design, OptimSpec


def describe_spec(spec: BaseModel) -> str:
    """Return a component in words: its kind, and what differs from the defaults: ``vit(depth=4, patch=2)``."""
    if isinstance(spec, Generated):
        return f"generated source {spec.sha256[:12]}"
    kind = getattr(spec, "kind", type(spec).__name__.lower())
    fields = type(spec).model_fields
    changed = {name: value for name in fields if (value := getattr(spec, name)) != fields[name].default}
    changed.pop("kind", None)
    inner = ", ".join(f"{name}={_words(value)}" for name, value in changed.items())
    return f"{kind}({inner})" if inner else str(kind)


def describe_design(design: Mapping[str, Any]) -> dict[str, str]:
    """Return a design in words, part by part."""
    value = Design.from_dict(design)
    model, optim, loop = value.model, value.training.optim, value.training.loop
    words = {f"{modality} encoder": describe_spec(encoder) for modality, encoder in model.encoders.items()}
    if model.fusion is not None:
        words["fusion"] = describe_spec(model.fusion)
    if model.trunk is not None:
        places = sorted(model.trunk.members.items())
        words["trunk"] = f"population of {', '.join(f'{name} ({place.role})' for name, place in places)}"
    words["head"] = describe_spec(model.head)
    words["width"] = str(model.dim)
    words["optimiser"] = (
        f"{describe_spec(optim.algorithm)}, rate {optim.lr:g}, decay {optim.weight_decay:g}, "
        f"{describe_spec(optim.schedule)} schedule after {_warm_up(optim)} warm-up"
    )
    loss = "the task's own loss" if loop.loss is None else describe_spec(loop.loss)
    words["training"] = f"{loop.epochs:g} epochs, batches of {loop.batch_size}, {loss}"
    if value.training.growth is not None:
        words["growth"] = describe_spec(value.training.growth)
    if value.training.controller is not None:
        words["controller"] = describe_spec(value.training.controller)
    return words


def fusion_words(fusion: Any) -> str:
    """Return a fusion in words: the formula of a composed one, the hash of source, or what it is called."""
    if isinstance(fusion, Composed):
        return fusion.words
    return describe_spec(fusion)


def outcome_words(outcome: Scored | Rejected | Failed | None) -> str:
    """Return an outcome in one line."""
    if outcome is None:
        return "not finished"
    if isinstance(outcome, Scored):
        return "scored " + ", ".join(f"{name} {value:.4g}" for name, value in outcome.objectives.items())
    if isinstance(outcome, Rejected):
        return f"rejected at {outcome.stage}: {outcome.reason}"
    return f"failed: {outcome.error}"


def _warm_up(optim: OptimSpec) -> str:
    return f"{optim.warmup:.0%}" if optim.warmup_steps is None else f"{optim.warmup_steps:,} steps of"


def _words(value: Any) -> str:
    if isinstance(value, GraphAttention):
        return f"graph {formula(value.graph)}"
    if isinstance(value, Backbone):
        return value.words
    if isinstance(value, FusionTree):
        return fusion_formula(value)
    if isinstance(value, Spec):
        return describe_spec(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
