"""Fusions in which tokens of one modality look at those of the other."""

from typing import ClassVar, Literal

import torch
from pydantic import field_validator
from torch import nn

from chiasma.data.batch import Tokens
from chiasma.model.attention import AttentionSpec, require_crossable
from chiasma.model.blocks import Mark, Transformer, TransformerSpec, at_least_one
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from chiasma.model.fusion.pooled import either


class CrossAttentionFusion(Fusion):
    """Tokens of one modality are queries, those of the other keys; the queries come out, or their mean.

    Where the asking modality is absent, one zero token asks in its place.

    Args:
        dim: Width D of both modalities and of the output.
        spec: Direction, depth, what comes out, and what the blocks are made of.
    """

    def __init__(self, dim: int, spec: "CrossAttention") -> None:
        super().__init__()
        self.pool = spec.pool
        self.image_asks = Transformer(dim, spec, crossed=True) if spec.direction != "text_to_image" else None
        self.text_asks = Transformer(dim, spec, crossed=True) if spec.direction != "image_to_text" else None
        mixed = spec.direction == "both" and spec.pool == "mean"
        self.mix = nn.Linear(2 * dim, dim) if mixed else nn.Identity()

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return the tokens that asked, those of the image first; or one token."""
        answers: list[Tokens] = []
        if self.image_asks is not None:
            answers.append(self.image_asks(at_least_one(image), text))
        if self.text_asks is not None:
            answers.append(self.text_asks(at_least_one(text), image))
        if self.pool == "mean":
            means = torch.cat([each.mean() for each in answers], dim=-1)
            return Tokens.single(self.mix(means), either(image, text))
        x, mask = (torch.cat([getattr(each, part) for each in answers], dim=1) for part in ("x", "mask"))
        return Tokens(x, mask).only(either(image, text))


class CrossedSpec(TransformerSpec, FusionSettings):
    """What every fusion has in which tokens of one modality look at those of the other."""

    every_token: ClassVar[bool] = True

    @field_validator("attention")
    @classmethod
    def _looks_at_another(cls, value: AttentionSpec) -> AttentionSpec:
        require_crossable(value)
        return value


class CrossAttention(CrossedSpec):
    """Tokens of one modality look at those of the other.

    Attributes:
        direction: ``image_to_text``: image tokens are queries, text tokens keys; ``text_to_image``: the reverse.
        pool: Hand on every token that asked, or their mean; a trunk can look at tokens only where there are several.
    """

    kind: Literal["cross_attention"] = "cross_attention"
    direction: Literal["image_to_text", "text_to_image", "both"] = "both"
    pool: Literal["none", "mean"] = "mean"

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return CrossAttentionFusion(dim, self)


class EarlyFusion(Fusion):
    """One transformer over the tokens of both modalities, each marked with a learned vector.

    Args:
        dim: Width D of both modalities and of the output.
        spec: Depth and what the blocks are made of.
    """

    def __init__(self, dim: int, spec: TransformerSpec) -> None:
        super().__init__()
        self.image_mark = Mark(dim)
        self.text_mark = Mark(dim)
        self.transformer = Transformer(dim, spec)

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return all tokens, those of the image first."""
        x = torch.cat([self.image_mark(image.x), self.text_mark(text.x)], dim=1)
        return self.transformer(Tokens(x, torch.cat([image.mask, text.mask], dim=1)))


class Early(TransformerSpec, FusionSettings):
    """One transformer over the tokens of both modalities."""

    every_token: ClassVar[bool] = True

    kind: Literal["early"] = "early"

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return EarlyFusion(dim, self)
