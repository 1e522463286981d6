"""A small convolutional network."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.blocks import Positions
from chiasma.model.encoders.encoder import Encoder, EncoderSettings, normalised

GROUPS = 8


class Stage(nn.Module):
    """A convolution that may halve the map, then residual ones; each normalised and rectified.

    GroupNorm (Wu and He 2018, https://arxiv.org/abs/1803.08494) keeps rows apart, which BatchNorm does not: an absent
    image must not contaminate the others.
    """

    def __init__(self, inputs: int, width: int, *, kernel: int, stride: int, residuals: int) -> None:
        super().__init__()
        self.first = _layer(inputs, width, kernel, stride)
        self.residuals = nn.ModuleList(_layer(width, width, kernel, 1) for _ in range(residuals))

    def forward(self, x: Float[Tensor, "B c P R"]) -> Float[Tensor, "B w p r"]:
        """Return the map with ``width`` channels."""
        x = self.first(x)
        for layer in self.residuals:
            x = x + layer(x)
        return x


class ConvolutionEncoder(Encoder):
    """Stages of convolutions, then a linear map of each place to a token.

    Args:
        dim: Width D of the tokens.
        spec: The shape of the network.
        input: Size of the images.
    """

    def __init__(self, dim: int, spec: "Convolution", input: ImageInput) -> None:
        super().__init__()
        halvings = spec.halvings(input)
        # What the stages cannot halve is averaged away first, so that large images stay cheap.
        self.shrink = 2 ** max(0, halvings - len(spec.widths))
        height, width = math.ceil(input.height / self.shrink), math.ceil(input.width / self.shrink)
        self.stages = nn.ModuleList()
        channels = input.channels
        for index, stage_width in enumerate(spec.widths):
            if spec.positions and index == len(spec.widths) - 1:
                self.stages.append(Positions(channels, height, width))
            stride = 2 if index < halvings else 1
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            self.stages.append(
                Stage(channels, stage_width, kernel=spec.kernel, stride=stride, residuals=spec.residuals)
            )
            channels = stage_width
        self.pool = spec.pool
        self.project = nn.Linear(channels * (height * width if spec.pool == "flatten" else 1), dim)

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return one token a place of the map, or one in all if pooled."""
        assert isinstance(inputs, Tensor)
        x = functional.avg_pool2d(inputs, self.shrink, ceil_mode=True) if self.shrink > 1 else inputs
        # Channels last saves a quarter of the time of training on a CPU.
        x = normalised(x).contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
        if self.pool == "flatten":
            return Tokens.single(self.project(x.flatten(1)))
        if self.pool == "mean":
            return Tokens.single(self.project(x.mean((2, 3))))
        x = self.project(x.permute(0, 2, 3, 1).flatten(1, 2))
        if self.pool == "max":
            return Tokens.single(x.amax(1))
        return Tokens(x, x.new_ones(x.shape[:2], dtype=torch.bool))


class Convolution(EncoderSettings):
    """A small convolutional network from scratch.

    Attributes:
        widths: Channels of each stage.
        grid: Stages halve the map until neither side is larger than this, so there are at most ``grid`` squared tokens.
        kernel: Side of each filter; odd.
        residuals: Residual convolutions in each stage after its first one.
        pool: Return each place of the map as a token, or one token: their mean, the largest value of each feature
            (small things in a large image are learned many times faster so), or a learned linear map of all places.
        positions: Add a learned map to what the last stage sees, so that it can tell places apart.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (ImageInput,)

    kind: Literal["convolution"] = "convolution"
    widths: tuple[int, ...] = Field(default=(16, 32, 64), min_length=1)
    grid: int = Field(default=8, ge=1)
    kernel: int = Field(default=3, ge=1)
    residuals: int = Field(default=0, ge=0)
    pool: Literal["none", "mean", "max", "flatten"] = "none"
    positions: bool = False

    @field_validator("widths")
    @classmethod
    def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if min(widths) < 1:
            raise ValueError(f"every width must be at least 1, but widths={widths}")
        return widths

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, but kernel={kernel}")
        return kernel

    def halvings(self, input: ImageInput) -> int:
        """Return how often sides are halved, by averaging or by a stage."""
        return max(0, math.ceil(math.log2(max(input.height, input.width) / self.grid)))

    def places(self, input: ImageInput) -> tuple[int, int]:
        """Return rows and columns of the map that comes out of the last stage."""
        cell = 2 ** self.halvings(input)
        return math.ceil(input.height / cell), math.ceil(input.width / cell)

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the encoder of images of the size in ``input``."""
        assert isinstance(input, ImageInput)
        return ConvolutionEncoder(dim, self, input)


def _layer(inputs: int, width: int, kernel: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(width, GROUPS), width), nn.ReLU())
