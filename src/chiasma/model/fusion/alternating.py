"""Early fusion in which image and text take turns."""

from typing import Literal

import torch
from torch import nn

from chiasma.data.batch import Tokens
from chiasma.model.attention import MultiHeadAttention, zero_padding
from chiasma.model.blocks import Mark, TransformerBlock, TransformerSpec
from chiasma.model.fusion.attentive import CrossedSpec
from chiasma.model.fusion.fusion import Fusion
from chiasma.model.recompute import Passage


class AlternatingBlock(nn.Module):
    """Tokens look at themselves, then at those of the other modality, then each passes a perceptron.

    Args:
        dim: Width D.
        spec: Heads, expansion, dropout and attention, the same for both looks; the depth is the caller's.
    """

    def __init__(self, dim: int, spec: TransformerSpec) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads=spec.heads, attention=spec.attention, dropout=spec.dropout)
        self.crossed = TransformerBlock(dim, spec, crossed=True)

    def forward(self, queries: Tokens, context: Tokens) -> Tokens:
        """Return the queries, changed by what they saw in themselves and in the context."""
        asking = Tokens(self.norm(queries.x), queries.mask)
        return self.crossed(Tokens(queries.x + self.attention(asking, asking), queries.mask), context)


class AlternatingFusion(Fusion):
    """Blocks that change the image with the text as context, and in turn the text with the image as context.

    The early fusion of document 004: a linear map and a learned mark for each modality, then blocks
    of self-attention, cross-attention and perceptron, of which the even ones change the image. Each block reads what
    the one before made of the other modality, unlike the co-attention of Lu et al. 2019
    (https://arxiv.org/abs/1908.02265), where both change at once. Unlike the original, padding is left out of
    self-attention and of the result.

    Args:
        dim: Width D of both modalities and of the output.
        spec: Depth and what the blocks are made of.
    """

    def __init__(self, dim: int, spec: TransformerSpec) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(dim, dim), Mark(dim))
        self.text = nn.Sequential(nn.Linear(dim, dim), Mark(dim))
        self.blocks = nn.ModuleList(AlternatingBlock(dim, spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(dim)
        self.passage = Passage()

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return all tokens, those of the image first."""
        image = Tokens(self.image(zero_padding(image)), image.mask)
        text = Tokens(self.text(zero_padding(text)), text.mask)
        for turn, block in enumerate(self.blocks):
            if turn % 2 == 0:
                image = self.passage(block, image, text)
            else:
                text = self.passage(block, text, image)
        joint = Tokens(self.norm(torch.cat([image.x, text.x], dim=1)), torch.cat([image.mask, text.mask], dim=1))
        return Tokens(zero_padding(joint), joint.mask)


class Alternating(CrossedSpec):
    """Image and text take turns: each block changes the tokens of one with those of the other as context.

    Attributes:
        depth: Blocks; the even ones, beginning with the first, change the image.
    """

    kind: Literal["alternating"] = "alternating"

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return AlternatingFusion(dim, self)
