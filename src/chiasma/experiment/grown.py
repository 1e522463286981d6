"""What whoever trains a trunk must know of it: whether its members see tokens, and who is in what is kept."""

from collections.abc import Mapping
from typing import Any

from chiasma.adapt.waiting import waits_told
from chiasma.data.signature import Signature
from chiasma.model.multimodal import ModelSpec
from chiasma.model.tokens import members_over_one_token


def one_token_warning(spec: ModelSpec, signature: Signature, *, searched: bool = False) -> list[str]:
    """Return what to say where members that look at tokens would see one; nothing where they see more, or are none.

    Args:
        spec: The model.
        signature: What its data look like.
        searched: Its fusion is the baseline of a search for another one, and not for the user to choose.
    """
    names = members_over_one_token(spec, signature)
    if not names:
        return []
    pooled = spec.fusion is not None and getattr(spec.fusion, "pool", "none") != "none"
    remedy = "model.fusion.pool=none" if pooled else "model.fusion.kind=film model.fusion.pool=none"
    hint = "" if spec.fusion is None else f" Hand on every token with --set {remedy}."
    if searched:
        hint = " Every fusion that makes one vector does that; search without: --set model.trunk=null growth=null."
    words = f"the attention and convolutions of {', '.join(names)} are linear maps"
    return [f"warning: the trunk is handed one token, of which {words}.{hint}"]


def kept_words(growth: Mapping[str, Any]) -> list[str]:
    """Return which step of a training with a growing trunk is kept and who is in it; nothing where no trunk grew."""
    kept = growth.get("kept")
    if not kept:
        return []
    names = [name if role == "member" else f"{name} ({ROLES[role]})" for name, role in kept["members"].items()]
    text = (
        f"The model that is kept is that of step {kept['step']} (review {kept['review']} of {growth['reviews']}); its "
        f"trunk: {', '.join(names)}."
    )
    undone = sum(event.get("undone", False) for event in growth["events"])
    if undone:
        text += f" {undone} later {'event' if undone == 1 else 'events'} in its population {_is(undone)} undone."
    if "newcomer" in kept["members"].values():
        text += " Who is on trial adds outside the router exactly what it added when that step was measured."
    return [text]


def growth_notes(growth: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of how a trunk grew: who is in what is kept, and why growth waited."""
    return [*kept_words(growth), *waits_told(growth)]


ROLES = {"newcomer": "on trial", "leaving": "teaching the others"}


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
