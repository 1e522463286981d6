"""Put a discovery to use: ``RUN#K`` where a config expects an attention or a fusion."""

import re
from typing import Any

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, value_at
from chiasma.experiment.runs import find_folder, split_reference
from chiasma.model.attention import DotProduct
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.multimodal import ModelSpec
from chiasma.search.attention_space import attention_slots, short_slot
from chiasma.store.run import RunStore
from chiasma.train.design import Design

REFERENCE = re.compile(r"[^#]+#\d+")
ATTENTION, FUSION = "attention", "fusion"


def with_discoveries(tree: dict[str, Any], *, run_folder: str | None = None) -> dict[str, Any]:
    """Return the tree with every ``attention: RUN#K`` and ``fusion: RUN#K`` replaced by what that candidate has.

    Args:
        tree: Settings as plain JSON.
        run_folder: Where runs lie; None for the usual place.

    Raises:
        ConfigError: There is no such run or candidate, its design has no attention or fusion, or a text is none.
    """

    def resolve(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: resolve(item, key) for key, item in value.items()}
        if name in (ATTENTION, FUSION) and isinstance(value, str):
            if not REFERENCE.fullmatch(value):
                raise ConfigError(
                    f"{name}: expected settings ({name}.kind=...) or a candidate of a run, RUN#K, but got {value!r}."
                )
            found = attention_of(value, run_folder) if name == ATTENTION else fusion_of(value, run_folder)
            return found.to_dict()
        return value

    return resolve(tree, "")


def attention_of(reference: str, run_folder: str | None = None) -> Spec:
    """Return the mechanism of ``RUN#K``: that of the searched slot, or of the only place where the design has one.

    Raises:
        ConfigError: There is no such run or candidate, or its design has no attention, or several.
    """
    design, searched = _design_of(reference, run_folder)
    found = {short_slot(path): value_at(design, path) for path in attention_slots(design)}
    if searched in found:
        return found[searched]
    different = {spec.content_hash(): spec for spec in found.values() if spec != DotProduct()} or found
    if len(different) != 1:
        places = ", ".join(found) or "none"
        raise ConfigError(f"{reference}: its design must have one discovered attention, but has these: {places}.")
    return next(iter(different.values()))


def mechanism_of(reference: str, run_folder: str | None = None) -> GraphAttention:
    """Return the mechanism of ``RUN#K`` as a graph.

    Raises:
        ConfigError: There is no such run or candidate, or what stands there is not a graph.
    """
    found = attention_of(reference, run_folder)
    if isinstance(found, GraphAttention):
        return found
    if isinstance(found, DotProduct):
        return GraphAttention(projections=found.projections)
    raise ConfigError(
        f"{reference}: its attention is {found.to_dict()['kind']!r}, not one that a search has discovered."
    )


def fusion_of(reference: str, run_folder: str | None = None) -> Spec:
    """Return the fusion of ``RUN#K``.

    Raises:
        ConfigError: There is no such run or candidate, or its design has no fusion.
    """
    design, _ = _design_of(reference, run_folder)
    if design.model.fusion is None:
        raise ConfigError(f"{reference}: its design has no fusion, only {', '.join(design.model.encoders)}.")
    return design.model.fusion


def searched_fusion(reference: str, run_folder: str | None = None) -> Spec | None:
    """Return the fusion of ``RUN#K`` where that run searched for fusions; None where it searched for something else.

    Raises:
        ConfigError: There is no such run or candidate.
    """
    design, searched = _design_of(reference, run_folder)
    return design.model.fusion if searched == FUSION else None


def _design_of(reference: str, run_folder: str | None) -> tuple[Design, str | None]:
    """Return the design of ``RUN#K``, and the place that its run searched."""
    run, number = split_reference(reference)
    assert number is not None
    with RunStore.open(find_folder(run, run_folder)) as store:
        try:
            design = Design(model=ModelSpec.from_dict(store.candidate(number).design["model"]))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return design, store.config.get("search", {}).get("slot")
