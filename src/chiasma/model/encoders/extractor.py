"""What an extractor is: a frozen network that makes the tokens which ``chiasma features`` keeps."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from PIL import Image

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec
from chiasma.data.feature_store import Encoded
from chiasma.model.plugins import Plugin

Reads = Literal["image", "text"]


@dataclass(frozen=True)
class Identity:
    """What kept tokens depend on beside the content they were made of; each part is in the store's key.

    Attributes:
        name: The extractor with its settings.
        weights: Hash of its weights; empty where it has none.
        preprocessing: Hash of what is done before.
    """

    name: str
    weights: str
    preprocessing: str


@dataclass(frozen=True)
class Place:
    """Where and how an extractor computes.

    Attributes:
        device: Where its network lies.
        dtype: Of matrix products and convolutions; boxes and scores are float32 always.
        length: Most token ids of a text; None leaves it to the extractor.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    length: int | None = None

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Return a context in which a network computes in ``dtype``."""
        plain = self.dtype == torch.float32
        return nullcontext() if plain else torch.autocast(self.device.type, dtype=self.dtype)


class Extractor(ABC):
    """Images or texts in, tokens out, with a mask and boxes where there are such.

    What it says of a content may not depend on what else is in the batch. It has nothing that could be trained:
    a projection to the model's width belongs into the model, where it learns.
    """

    @property
    @abstractmethod
    def identity(self) -> Identity:
        """Return what its tokens depend on, beside the content."""

    @abstractmethod
    def prepare(self, content: "Image.Image | str") -> Any:
        """Return what of one RGB image or one text :meth:`encode` needs; called in several threads at once.

        Raises:
            DataError: It cannot be used. The content is left out then, and the reason shown.
        """

    @abstractmethod
    def encode(self, prepared: list[Any]) -> Encoded:
        """Return the tokens of a batch; all batches have tokens of one shape."""


class ExtractorSettings(Spec):
    """What every extractor's spec has: what it reads, how much at once, and how to build it."""

    reads: ClassVar[Reads]
    batch_size: ClassVar[int] = 32

    @abstractmethod
    def build(self, place: Place) -> Extractor:
        """Return the extractor with its weights.

        Raises:
            ConfigError: The weights cannot be had, or are not of this architecture.
        """


class ExtractorPlugin(Plugin):
    """An extractor of a third party."""

    group: ClassVar[str] = "chiasma.extractor"
    settings: ClassVar[type[Spec]] = ExtractorSettings


def resolve_extractor(spec: ExtractorSettings | ExtractorPlugin) -> ExtractorSettings:
    """Return the settings that a spec stands for: a plugin's own, or the spec itself."""
    settings = spec.resolve() if isinstance(spec, ExtractorPlugin) else spec
    assert isinstance(settings, ExtractorSettings)
    return settings


def check_reads(settings: ExtractorSettings, modality: str, *, name: str) -> None:
    """Refuse an extractor for another modality.

    Raises:
        ConfigError: Names both.
    """
    if modality != settings.reads:
        raise ConfigError(f"--extractor {name} reads {settings.reads}s, but --modality is {modality}.")
