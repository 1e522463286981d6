"""Fusions by attention."""

from typing import Literal

from chiasma.model.blocks import TransformerSpec


class CrossAttention(TransformerSpec):
    """Tokens of one modality look at those of the other.

    Attributes:
        direction: ``image_to_text``: image tokens are queries, text tokens keys; ``text_to_image``: the reverse.
    """

    kind: Literal["cross_attention"] = "cross_attention"
    direction: Literal["image_to_text", "text_to_image", "both"] = "both"


class Early(TransformerSpec):
    """One transformer over the tokens of both modalities."""

    kind: Literal["early"] = "early"
