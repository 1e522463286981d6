"""Linear on pixels: with a linear head, the linear floor of images."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.encoders.encoder import Encoder, EncoderSettings, normalised


class PixelsEncoder(Encoder):
    """One linear map of all pixels of the shrunken image.

    Args:
        dim: Width D of the token.
        size: Pixels a side after averaging.
        input: Size of the images.
    """

    def __init__(self, dim: int, size: int, input: ImageInput) -> None:
        super().__init__()
        self.size = (min(size, input.height), min(size, input.width))
        self.project = nn.Linear(input.channels * self.size[0] * self.size[1], dim)

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return one token an image."""
        assert isinstance(inputs, Tensor)
        shrunken = functional.adaptive_avg_pool2d(inputs, self.size)
        return Tokens.single(self.project(normalised(shrunken).flatten(1)))


class Pixels(EncoderSettings):
    """One linear map of the shrunken image: the linear floor of images; one token.

    Attributes:
        size: The image is averaged down to at most this many pixels a side.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (ImageInput,)

    kind: Literal["pixels"] = "pixels"
    size: int = Field(default=16, ge=1)

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the encoder of images of the size in ``input``."""
        assert isinstance(input, ImageInput)
        return PixelsEncoder(dim, self.size, input)
