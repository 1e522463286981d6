"""Extractors of other people, in the form in which most of them are written: one image in, features and boxes out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.feature_store import Encoded
from chiasma.model.encoders.extractor import Extractor, ExtractorPlugin, ExtractorSettings, Identity, Place, Reads
from chiasma.model.plugins import register
from chiasma.model.registering import spec_of


class BaseFeatureExtractor(ABC):
    """A frozen network that :func:`register_feature_extractor` makes one of ``chiasma features --extractor``.

    Further arguments of its constructor are settings. Networks that are its attributes are hashed, so that tokens of
    other weights are never taken for its own.

    Args:
        output_dim: Width of a region's features.
        num_regions: Regions of an image; where it gives fewer, the rest is masked.
        device: Where it computes.
    """

    def __init__(self, output_dim: int = 2048, num_regions: int = 36, device: str = "cpu") -> None:
        self.output_dim = output_dim
        self.num_regions = num_regions
        self.device = device

    @abstractmethod
    def extract_features(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Return features ``R D`` and boxes ``R 5`` (``x1 y1 x2 y2 area`` in parts of the image) of an RGB image."""

    def _compute_spatial_locations(self, boxes: Tensor | Sequence[Sequence[float]], image: Image.Image) -> Tensor:
        """Return boxes ``R 4`` in pixels as ``R 5`` in parts of the image's own size."""
        scale = torch.tensor([image.width, image.height] * 2, dtype=torch.float32)
        parts = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4).cpu() / scale
        area = (parts[:, 2] - parts[:, 0]) * (parts[:, 3] - parts[:, 1])
        return torch.cat([parts, area[:, None]], dim=1)


E = TypeVar("E", bound=BaseFeatureExtractor)


class RegisteredExtractor(Extractor):
    """A registered extractor as one that the feature store asks.

    Args:
        own: The extractor.
        name: With its settings.
    """

    def __init__(self, own: BaseFeatureExtractor, name: str) -> None:
        self.own = own
        self._identity = Identity(name, _weights(own), "its own")

    @property
    def identity(self) -> Identity:
        """Return its name, settings and weights."""
        return self._identity

    def prepare(self, content: Image.Image | str) -> Any:
        """Return the image, which the extractor prepares itself."""
        assert isinstance(content, Image.Image)
        return content

    def encode(self, prepared: list[Any]) -> Encoded:
        """Return features, padded with zeros to the number of regions and masked there.

        Raises:
            DataError: The extractor returned another shape than it promised.
        """
        count, width = self.own.num_regions, self.own.output_dim
        tokens = np.zeros((len(prepared), count, width), dtype=np.float32)
        boxes = np.zeros((len(prepared), count, 5), dtype=np.float32)
        mask = np.zeros((len(prepared), count), dtype=bool)
        for row, image in enumerate(prepared):
            with torch.no_grad():
                features, spatial = self.own.extract_features(image)
            found = len(features)
            if features.ndim != 2 or features.shape[1] != width or found > count or spatial.shape != (found, 5):
                raise DataError(
                    f"{type(self.own).__qualname__} must return features of at most ({count}, {width}) and a box of 5 "
                    f"numbers for each, but returned {tuple(features.shape)} and {tuple(spatial.shape)}."
                )
            tokens[row, :found], boxes[row, :found] = features.float().cpu().numpy(), spatial.float().cpu().numpy()
            mask[row, :found] = True
        return Encoded(tokens, mask, boxes)


def register_feature_extractor(name: str) -> Callable[[type[E]], type[E]]:
    """Return a decorator that makes an extractor known as ``chiasma features --extractor NAME``.

    An installed package may name the class in the entry point ``chiasma.extractor`` instead.

    Args:
        name: What the command line calls it.

    Raises:
        ConfigError: Another extractor has that name, or the class is no :class:`BaseFeatureExtractor`.
    """

    def decorate(cls: Any) -> Any:
        if not issubclass(cls, BaseFeatureExtractor):
            raise ConfigError(
                f"@register_feature_extractor({name!r}): {cls.__qualname__} must inherit BaseFeatureExtractor."
            )

        def build(self: ExtractorSettings, place: Place) -> Extractor:
            options: dict[str, Any] = {key: getattr(self, key) for key in type(self).model_fields}
            return RegisteredExtractor(cls(**options, device=str(place.device)), f"{name} {self.to_json()}")

        reads: Reads = "image"
        namespace = {"build": build, "reads": reads, "__annotations__": {"reads": ClassVar[Reads]}}
        spec = spec_of(cls, ExtractorSettings, given=("device",), namespace=namespace)
        register(ExtractorPlugin.group, name, spec, of=cls)
        return cls

    return decorate


def _weights(own: BaseFeatureExtractor) -> str:
    """Return a hash of all networks and tensors that are attributes of an extractor; empty without any."""
    tensors: dict[str, Tensor] = {}
    for name, value in sorted(vars(own).items()):
        if isinstance(value, nn.Module):
            tensors |= {f"{name}.{key}": each for key, each in value.state_dict().items()}
        elif isinstance(value, Tensor):
            tensors[name] = value
    if not tensors:
        return ""
    found = hashlib.sha256()
    for name, value in tensors.items():
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()
