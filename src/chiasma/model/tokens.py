"""How many tokens a model hands to its trunk, and how to have it hand on every one."""

from functools import lru_cache

import torch

from chiasma.core.rng import kept_torch_generator
from chiasma.core.spec import replace_at
from chiasma.data.signature import Signature
from chiasma.model.cost import example_batch
from chiasma.model.generated import unapproved_in
from chiasma.model.multimodal import ModelSpec

EVERY = ("none", "both")


def fused_tokens(spec: ModelSpec, signature: Signature) -> int:
    """Build a model and count the tokens that its fusion, or its only encoder, returns for one example.

    Texts have their full length. Torch's global generator is left as it was.

    Raises:
        ConfigError: The architecture does not fit the dataset.
    """
    return _counted(spec.model_copy(update={"trunk": None}).to_json(), signature.to_json())


@lru_cache(maxsize=256)
def _counted(spec: str, signature: str) -> int:
    """Count once for what differs in its trunk alone, as most edits of a growing model do."""
    data = Signature.from_json(signature)
    with kept_torch_generator(), torch.inference_mode():
        model = ModelSpec.from_json(spec).build(data).eval()
        return model.fuse(model.encode(example_batch(data, 1))).x.shape[1]


def members_over_one_token(spec: ModelSpec, signature: Signature) -> list[str]:
    """Return the members that look at several tokens though the trunk is handed one; none where it is handed more.

    Over one token attention and convolutions are linear maps. None either where a part is source that nobody has
    approved: it is not built here to see.
    """
    if spec.trunk is None or unapproved_in(spec):
        return []
    looking = sorted(name for name, place in spec.trunk.members.items() if place.member.mixes_tokens)
    return looking if looking and fused_tokens(spec, signature) == 1 else []


def starves(edited: ModelSpec, before: ModelSpec, signature: Signature) -> str | None:
    """Return why an edit leaves a trunk with a single token whose members look at several, or None.

    What was so before the edit is not the edit's fault.
    """
    same = edited.encoders == before.encoders and edited.fusion == before.fusion
    if same or not members_over_one_token(edited, signature) or members_over_one_token(before, signature):
        return None
    return "members of the trunk that look at tokens would be handed one"


def with_open_encoders(spec: ModelSpec) -> tuple[ModelSpec, list[str]]:
    """Return the model without pooling in its encoders, and the modalities where that changed something.

    Attention over a single token is a linear map: it needs the tokens.
    """
    opened = [name for name, encoder in spec.encoders.items() if getattr(encoder, "pool", "none") not in EVERY]
    for name in opened:
        spec = replace_at(spec, f"encoders.{name}.pool", "none")
    return spec, opened


def with_every_token(spec: ModelSpec) -> tuple[ModelSpec, list[str]]:
    """Return the model without pooling before its trunk, and what was opened: ``fusion`` or a modality.

    A fusion that makes one token of whatever it is given stays as it is.
    """
    spec, opened = with_open_encoders(spec)
    if getattr(spec.fusion, "pool", "none") != "none":
        spec, opened = replace_at(spec, "fusion.pool", "none"), ["fusion", *opened]
    return spec, opened
