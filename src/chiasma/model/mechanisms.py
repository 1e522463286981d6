"""The attention mechanisms that a model has, wherever they stand."""

from chiasma.model.attention import AttentionSpec, DotProduct
from chiasma.model.blocks import TransformerSpec
from chiasma.model.fusion import Composed
from chiasma.model.multimodal import ModelSpec
from chiasma.model.trunk.members import TransformerMemberSpec


def mechanisms_of(spec: ModelSpec) -> list[AttentionSpec]:
    """Return plain attention and every other one in the encoders, the fusion and the trunk of a model, each once."""
    members = {} if spec.trunk is None else spec.trunk.members
    parts = [*(spec.encoders[name] for name in sorted(spec.encoders)), spec.fusion]
    parts += [members[name].member for name in sorted(members)]
    found: list[AttentionSpec] = [DotProduct()]
    for part in parts:
        used: list[AttentionSpec | None] = []
        if isinstance(part, TransformerSpec | TransformerMemberSpec):
            used = [part.attention]
        elif isinstance(part, Composed):
            used = [node.attention for node in part.tree.nodes]
        for each in used:
            if each is not None and each not in found:
                found.append(each)
    return found
