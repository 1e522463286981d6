"""A vision transformer."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.blocks import Positions, Transformer, TransformerSpec, pooled
from chiasma.model.encoders.encoder import Encoder, EncoderSettings, normalised


class ViTEncoder(Encoder):
    """Patches of the image as tokens of a transformer (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

    Unlike the paper, the class token exists only where it is returned, and the patch size follows from the number of
    patches a side, so that one spec fits images of every size. The convolutional stem is that of Xiao et al. 2021
    (https://arxiv.org/abs/2106.14881), cut down to one convolution before the patches.

    Args:
        dim: Width D of the tokens.
        spec: The shape of the network.
        input: Size of the images.
    """

    def __init__(self, dim: int, spec: "ViT", input: ImageInput) -> None:
        super().__init__()
        patch = math.ceil(max(input.height, input.width) / spec.grid)
        places = math.ceil(input.height / patch) * math.ceil(input.width / patch)
        self.padding = (0, -input.width % patch, 0, -input.height % patch)
        self.stem = _stem(input.channels, dim, patch=patch, convolved=spec.stem == "convolution")
        started = spec.pool in ("cls", "both")
        self.start = nn.Parameter(torch.zeros(1, 1, dim)) if started else None
        self.positions = Positions(places + started, dim)
        self.transformer = Transformer(dim, spec)
        self.pool = spec.pool

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return one token a patch, with or without the class token, or one in all if pooled."""
        assert isinstance(inputs, Tensor)
        x = self.stem(functional.pad(normalised(inputs), self.padding)).flatten(2).transpose(1, 2)
        if self.start is not None:
            x = torch.cat([self.start.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        x = self.positions(x)
        return pooled(self.transformer(Tokens(x, x.new_ones(x.shape[:2], dtype=torch.bool))), self.pool)


class ViT(TransformerSpec, EncoderSettings):
    """A vision transformer from scratch.

    Attributes:
        stem: Cut the image into patches, or look at it with a convolution first.
        grid: Patches along the longer side of the image, at most.
        pool: Return the tokens of all patches, only a learned class token, ``both``, or the mean of the patches.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (ImageInput,)

    kind: Literal["vit"] = "vit"
    stem: Literal["patch", "convolution"] = "patch"
    grid: int = Field(default=8, ge=1)
    pool: Literal["none", "cls", "both", "mean"] = "none"

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the encoder of images of the size in ``input``."""
        assert isinstance(input, ImageInput)
        return ViTEncoder(dim, self, input)


def _stem(channels: int, dim: int, *, patch: int, convolved: bool) -> nn.Module:
    """Return a map of ``C P P`` to ``D P/patch P/patch``."""
    if not convolved:
        return nn.Conv2d(channels, dim, patch, stride=patch)
    stride = max(step for step in range(1, math.isqrt(patch) + 1) if patch % step == 0)
    width = max(16, dim // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, 2 * stride + 1, stride=stride, padding=stride),
        nn.GroupNorm(math.gcd(width, 8), width),
        nn.ReLU(),
        nn.Conv2d(width, dim, patch // stride, stride=patch // stride),
    )
