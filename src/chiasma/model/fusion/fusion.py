"""What a fusion is: the tokens of an image and of a text in, joint tokens out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.model.plugins import Plugin


class Fusion(nn.Module, ABC):
    """Joins an image and a text."""

    @abstractmethod
    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return joint tokens of the model's width; one is allowed.

        Nothing may depend on masked tokens. A row without an image, without a text, or without both gives finite
        tokens; what is there must still count.
        """


class FusionSettings(Spec):
    """What every fusion's spec has.

    Attributes:
        every_token: Whether it looks at single tokens: over one token a modality, attention is a linear map.
    """

    every_token: ClassVar[bool] = False

    def widths(self, dim: int) -> Mapping[str, int]:
        """Return the width of the tokens that it takes of each modality, which their encoders are built for."""
        return {"image": dim, "text": dim}

    def check(self, dim: int) -> None:
        """Refuse a width of the model that does not go with these settings.

        Raises:
            ValueError: Says which setting is to be changed.
        """
        del dim

    @abstractmethod
    def build(self, dim: int) -> Fusion:
        """Return a fusion into tokens of width ``dim``."""


class FusionPlugin(Plugin):
    """A fusion of a third party."""

    group: ClassVar[str] = "chiasma.fusion"
    settings: ClassVar[type[Spec]] = FusionSettings

    @property
    def every_token(self) -> bool:
        """Return whether it looks at single tokens, as its own spec says."""
        settings = self.resolve()
        assert isinstance(settings, FusionSettings)
        return settings.every_token

    def widths(self, dim: int) -> Mapping[str, int]:
        """Return the width of the tokens of each modality, as the plugin's own spec says."""
        settings = self.resolve()
        assert isinstance(settings, FusionSettings)
        return settings.widths(dim)

    def check(self, dim: int) -> None:
        """Refuse a width of the model as the plugin's own spec does."""
        settings = self.resolve()
        assert isinstance(settings, FusionSettings)
        settings.check(dim)

    def build(self, dim: int) -> Fusion:
        """Return what the plugin's own spec builds."""
        settings = self.resolve()
        assert isinstance(settings, FusionSettings)
        return settings.build(dim)
