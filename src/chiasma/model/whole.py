"""Whole models of third parties, in place of encoders, fusion and head."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Batch, Output
from chiasma.data.signature import Signature
from chiasma.model.plugins import Plugin


class WholeModel(nn.Module, ABC):
    """A model that does everything itself."""

    @abstractmethod
    def forward(self, batch: Batch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return the output of each row; absent parts of the batch are zeroed already."""


class WholeModelSettings(Spec):
    """What the spec of a whole model has."""

    @abstractmethod
    def build(self, signature: Signature) -> WholeModel:
        """Return a model of a dataset with this signature."""


class ModelPlugin(Plugin):
    """A whole model of a third party."""

    group: ClassVar[str] = "chiasma.model"
    settings: ClassVar[type[Spec]] = WholeModelSettings

    def build(self, signature: Signature) -> WholeModel:
        """Return what the plugin's own spec builds."""
        settings = self.resolve()
        assert isinstance(settings, WholeModelSettings)
        return settings.build(signature)
