"""ResNet backbones of detectors, with the names that their published weights have."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

EXPANSION = 4


@dataclass(frozen=True)
class ResNetShape:
    """What the names of weights do not say.

    Attributes:
        depths: Blocks a stage.
        width: Channels after the first convolution.
        early_stride: A block halves the map in its first convolution, as in Caffe's models, not in its second.
        epsilon: Of the norms.
    """

    depths: tuple[int, int, int, int]
    width: int = 64
    early_stride: bool = False
    epsilon: float = 1e-5

    def channels(self, stage: int) -> int:
        """Return the channels of a stage's output."""
        return self.width * 2**stage * EXPANSION


class FrozenNorm(nn.Module):
    """A batch norm whose statistics and scale are fixed.

    Args:
        channels: Of its input.
        epsilon: Added to the variance.
    """

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input scaled and moved, channel by channel."""
        scale = self.weight * (self.running_var + self.epsilon).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None]).to(x.dtype)


class Bottleneck(nn.Module):
    """Three convolutions beside a way past them.

    Args:
        channels: Of the input.
        width: Of the middle convolution.
        stride: Halves the map where it is 2.
        shape: Where it does so.
    """

    def __init__(self, channels: int, width: int, stride: int, shape: ResNetShape) -> None:
        super().__init__()
        first, second = (stride, 1) if shape.early_stride else (1, stride)
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, stride=first, bias=False)
        self.bn1 = FrozenNorm(width, shape.epsilon)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = FrozenNorm(width, shape.epsilon)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = FrozenNorm(out, shape.epsilon)
        self.downsample = nn.Identity()
        if stride != 1 or channels != out:
            past = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(past, FrozenNorm(out, shape.epsilon))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways, rectified."""
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return relu(self.bn3(self.conv3(y)) + self.downsample(x))


def stages(shape: ResNetShape) -> Sequence[nn.Sequential]:
    """Return the four stages of a ResNet."""
    made: list[nn.Sequential] = []
    channels = shape.width
    for stage, depth in enumerate(shape.depths):
        blocks: list[nn.Module] = []
        for place in range(depth):
            stride = 2 if place == 0 and stage else 1
            blocks.append(Bottleneck(channels, shape.width * 2**stage, stride, shape))
            channels = shape.channels(stage)
        made.append(nn.Sequential(*blocks))
    return made
