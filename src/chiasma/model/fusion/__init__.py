"""Fusions: the tokens of an image and of a text in, joint tokens out."""

from typing import Annotated

from pydantic import Field

from chiasma.model.fusion.alternating import Alternating
from chiasma.model.fusion.attentive import CrossAttention, CrossedSpec, Early
from chiasma.model.fusion.composed.composed import Composed
from chiasma.model.fusion.fusion import Fusion, FusionPlugin
from chiasma.model.fusion.generated import Generated
from chiasma.model.fusion.late import Late
from chiasma.model.fusion.pooled import Bilinear, Concat, FiLM, Gated, Multiplicative
from chiasma.model.fusion.vilbert import ViLBERT

FusionSpec = Annotated[
    Concat
    | Gated
    | Multiplicative
    | Bilinear
    | FiLM
    | CrossAttention
    | Alternating
    | Early
    | Late
    | ViLBERT
    | Composed
    | Generated
    | FusionPlugin,
    Field(discriminator="kind"),
]

__all__ = [
    "Alternating",
    "Bilinear",
    "Composed",
    "Concat",
    "CrossAttention",
    "CrossedSpec",
    "Early",
    "FiLM",
    "Fusion",
    "FusionPlugin",
    "FusionSpec",
    "Gated",
    "Generated",
    "Late",
    "Multiplicative",
    "ViLBERT",
]
