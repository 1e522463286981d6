"""What an encoder is."""

from abc import ABC
from typing import ClassVar

from torch import nn

from chiasma.model.plugins import Plugin


class Encoder(nn.Module, ABC):
    """One modality in, tokens out."""


class EncoderPlugin(Plugin):
    """An encoder of a third party."""

    group: ClassVar[str] = "chiasma.encoder"
