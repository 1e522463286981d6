"""The head that learns which image and which text belong together."""

import math
from typing import Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chiasma.data.batch import Output, TokenBatch, Tokens
from chiasma.data.signature import Target
from chiasma.model.head import Head, HeadSettings, perceptron

SIDES = ("image", "text")
LARGEST_SCALE = 100.0


class ContrastiveHead(Head):
    """Image and text as two directions of one space, near each other where they belong together.

    CLIP's (Radford et al. 2021, https://arxiv.org/abs/2103.00020): the mean of each side's own tokens, before anything
    mixes the sides, is projected and normalised, and similarities are scaled by a learned factor, at most 100. Unlike
    there, each direction is returned times the root of the factor, so that the product of two rows is the scaled
    similarity of their pair: whoever has the outputs can compare any image with any text.

    Args:
        dim: Width D of the tokens.
        projection: Width of the common space.
        temperature: One over the factor, in the beginning.
        hidden: Width of a hidden layer of each projection; None for a linear one.
        dropout: Probability of zeroing a feature before each linear map.
    """

    def __init__(self, dim: int, *, projection: int, temperature: float, hidden: int | None, dropout: float) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(
            {side: perceptron(dim, outputs=projection, hidden=hidden, dropout=dropout) for side in SIDES}
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, fused: Tokens, tokens: TokenBatch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return the image's direction beside the text's ``[B 2P]``; ``fused`` and ``targets`` are for other heads."""
        root = (self.log_scale.clamp(max=math.log(LARGEST_SCALE)) / 2).exp()
        sides = [self.projections[side](tokens.tokens[side].mean()).float() for side in SIDES]
        return Output(torch.cat([functional.normalize(side, dim=1) * root for side in sides], dim=1))


class Contrastive(HeadSettings):
    """Which image and which text belong together; each side is seen alone, so there is no fusion and no trunk.

    Attributes:
        projection: Width of the space in which both are compared.
        temperature: What similarities are divided by in the beginning; it is learned.
    """

    kind: Literal["contrastive"] = "contrastive"
    projection: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.07, ge=0.01, le=1)

    def build(self, dim: int, target: Target) -> Head:
        """Return a head for pairs.

        Raises:
            ValueError: The target is of another task.
        """
        self.check(target)
        return ContrastiveHead(
            dim,
            projection=self.projection,
            temperature=self.temperature,
            hidden=self.hidden,
            dropout=self.dropout,
        )
