"""What a fusion is."""

from abc import ABC
from typing import ClassVar

from torch import nn

from chiasma.model.plugins import Plugin


class Fusion(nn.Module, ABC):
    """Joins an image and a text."""


class FusionPlugin(Plugin):
    """A fusion of a third party."""

    group: ClassVar[str] = "chiasma.fusion"
