"""The model: encoders, a fusion, a head, and the spec that builds them."""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from chiasma.core.spec import Spec
from chiasma.data.signature import Signature
from chiasma.model.blocks import TransformerSpec
from chiasma.model.encoders import EncoderSpec
from chiasma.model.fusion import FusionSpec
from chiasma.model.heads import Classification, HeadSpec
from chiasma.model.plugins import ModelPlugin


class ModelSpec(Spec):
    """An architecture.

    Attributes:
        dim: Width D of all tokens.
        encoders: By modality.
        fusion: None exactly when there is one encoder.
        head: From the fused tokens to the output.
        whole: A third party's model in place of encoders, fusion and head; None in all our own designs.
    """

    dim: int = Field(64, ge=1)
    encoders: Mapping[str, EncoderSpec] = {}
    fusion: FusionSpec | None = None
    head: HeadSpec = Classification()
    whole: ModelPlugin | None = None
