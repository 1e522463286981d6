"""What an encoder is: one modality in, tokens of the model's width out."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.plugins import Plugin


class Encoder(nn.Module, ABC):
    """One modality in, tokens out.

    The model zeroes absent rows before and masks them after, so an encoder only has to keep rows apart.
    """

    @abstractmethod
    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return tokens of width D.

        Args:
            inputs: Images as float ``B C P P`` in 0..1, texts as int64 ``B L`` padded with 0, or ready-made tokens.
        """


class EncoderSettings(Spec):
    """What every encoder's spec has: the inputs it accepts, and how to build it."""

    accepts: ClassVar[tuple[type[Spec], ...]]

    def check(self, modality: str, input: ImageInput | TextInput | TokensInput) -> None:
        """Refuse data that were prepared for something else.

        Args:
            modality: What it encodes, for messages.
            input: Of a class it accepts.

        Raises:
            ConfigError: Says which setting is to be changed.
        """
        del modality, input

    @abstractmethod
    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return an encoder of ``input`` into tokens of width ``dim``; ``input`` is of a class it accepts."""


class EncoderPlugin(Plugin):
    """An encoder of a third party."""

    group: ClassVar[str] = "chiasma.encoder"
    settings: ClassVar[type[Spec]] = EncoderSettings


def resolve_encoder(spec: EncoderSettings | EncoderPlugin) -> EncoderSettings:
    """Return the settings that a spec stands for: a plugin's own, or the spec itself."""
    settings = spec.resolve() if isinstance(spec, EncoderPlugin) else spec
    assert isinstance(settings, EncoderSettings)
    return settings


def normalised(images: Float[Tensor, "B C P R"]) -> Float[Tensor, "B C P R"]:
    """Return pixels in 0..1 centred and scaled to about unit variance, alike for every dataset and channel."""
    # One pass over the pixels instead of two: this is memory-bound.
    return torch.add(images.new_tensor(-2.0), images, alpha=4.0)
