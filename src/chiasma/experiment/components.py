"""Everything a design can name: parts of models, of training, and what third parties add."""

import inspect
from typing import Any, get_args

from chiasma.model.components import Component, list_components
from chiasma.train.design import LossSpec, OptimSpec


def components() -> list[Component]:
    """Return every component by part: those of models with plugins, then losses, optimisers and schedules."""
    unions: dict[str, Any] = {
        "loss": get_args(LossSpec)[0],
        "optimiser": OptimSpec.model_fields["algorithm"].annotation,
        "schedule": OptimSpec.model_fields["schedule"].annotation,
    }
    ours = [_component(part, member) for part, union in unions.items() for member in get_args(union)]
    return [*list_components(), *ours]


def _component(part: str, member: Any) -> Component:
    summary = (inspect.getdoc(member) or "").splitlines()[0]
    kind = member.model_fields["kind"].default
    return Component(part, kind, f"{member.__module__}.{member.__qualname__}", summary, "chiasma")
