"""Regions of images: which of a detector's proposals are kept, and how they become tokens with boxes."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad

from chiasma.core.errors import DataError
from chiasma.data.boxes import in_parts
from chiasma.data.feature_store import Encoded
from chiasma.model.encoders.extractor import Extractor, ExtractorSettings, Identity, Place, Reads
from chiasma.model.encoders.extractors.box_ops import non_maximum_by_class


@dataclass(frozen=True)
class Proposals:
    """What a detector says of the regions of one image.

    Attributes:
        features: ``n D``.
        scores: ``n C`` probabilities of the classes, without background.
        boxes: ``n C 4``: where the object is if it is of that class, in pixels of the resized image.
    """

    features: Tensor
    scores: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Prepared:
    """An image as a detector reads it.

    Attributes:
        pixels: ``3 H W``, resized and normalised.
        height: Of the resized image, without padding.
        width: Of the resized image, without padding.
    """

    pixels: Tensor
    height: int
    width: int


class Detector(nn.Module):
    """Proposes regions, and says what is in them."""

    border: float = 0.0
    """1 where corners are pixels that belong to the box."""

    @abstractmethod
    def shrink(self, image: Image.Image) -> Prepared:
        """Return an image resized and normalised as the detector was trained."""

    @abstractmethod
    def propose(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Proposals]:
        """Return what is said of each image of a batch.

        Args:
            images: ``B 3 H W``.
            sizes: Height and width of each without padding.
        """


class RegionSettings(ExtractorSettings):
    """Which regions of a detector are kept, in the way of bottom-up attention.

    Anderson et al. 2018 (https://arxiv.org/abs/1707.07998): after suppression class by class, the regions whose best
    class scores at least ``threshold``; unlike there, where fewer are found than ``least``, those with the best score
    of any class fill up instead of arbitrary ones.

    Attributes:
        regions: Most regions an image.
        least: Fewest regions an image, as long as the detector proposes as many.
        threshold: Score that a region needs beyond that.
        overlap: Intersection over union at which a region suppresses another of its class.
    """

    reads: ClassVar[Reads] = "image"
    batch_size: ClassVar[int] = 4

    regions: int = Field(default=36, ge=1, le=300)
    least: int = Field(default=10, ge=1, le=300)
    threshold: float = Field(default=0.2, ge=0, le=1)
    overlap: float = Field(default=0.5, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _few_regions_need_no_more(cls, values: Any) -> Any:
        """Let ``regions=5`` alone mean at least five too."""
        most = values.get("regions") if isinstance(values, dict) else None
        if not isinstance(most, int) or "least" in values or most >= cls.model_fields["least"].default:
            return values
        return {**values, "least": most}

    @model_validator(mode="after")
    def _least_is_not_most(self) -> "RegionSettings":
        if self.least > self.regions:
            raise ValueError(f"least must not be above regions, but least={self.least} and regions={self.regions}")
        return self


class RegionExtractor(Extractor):
    """The regions of a detector that are worth keeping, padded with masked zeros to one count.

    Images of one size share a batch of the network; others never do, so that padding changes nothing.

    Args:
        network: The detector, on its device.
        spec: Which regions are kept.
        identity: What its tokens depend on.
        place: Where it computes.
        dim: Width of its features.
    """

    def __init__(self, network: Detector, spec: RegionSettings, identity: Identity, place: Place, *, dim: int) -> None:
        self.network = network
        self.spec = spec
        self.place = place
        self.dim = dim
        self._identity = identity

    @property
    def identity(self) -> Identity:
        """Return the detector with its settings and weights."""
        return self._identity

    def prepare(self, content: Image.Image | str) -> Any:
        """Return the image as the detector reads it."""
        assert isinstance(content, Image.Image)
        return self.network.shrink(content)

    def encode(self, prepared: list[Any]) -> Encoded:
        """Return a token for each region, the most certain first."""
        shape = (len(prepared), self.spec.regions)
        tokens, boxes = np.zeros((*shape, self.dim), np.float32), np.zeros((*shape, 5), np.float32)
        mask = np.zeros(shape, np.bool_)
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(prepared):
            groups.setdefault(tuple(image.pixels.shape), []).append(place)
        for places in groups.values():
            images = torch.stack([prepared[place].pixels for place in places]).to(self.place.device)
            sizes = [(prepared[place].height, prepared[place].width) for place in places]
            with torch.inference_mode(), self.place.arithmetic():
                proposed = self.network.propose(images, sizes)
            for place, (height, width), said in zip(places, sizes, proposed, strict=True):
                chosen, corners = select(said, self.spec, border=self.network.border)
                count = len(chosen)
                tokens[place, :count] = said.features[chosen].float().cpu().numpy()
                boxes[place, :count] = in_parts(corners.cpu().numpy(), width=width, height=height)
                mask[place, :count] = True
        return Encoded(tokens, mask, boxes)


def select(said: Proposals, spec: RegionSettings, *, border: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return which regions are kept, the most certain first, and the box of each for its best class, ``k 4``.

    Raises:
        DataError: The detector proposes nothing.
    """
    scores, boxes = said.scores.float().cpu(), said.boxes.float().cpu()
    if not len(scores):
        raise DataError("The detector proposes no region of an image, which its weights should never do.")
    rows, classes = (scores >= spec.threshold).nonzero(as_tuple=True)
    corners = boxes[rows, classes]
    grown = torch.cat([corners[:, :2], corners[:, 2:] + border], 1)
    kept = non_maximum_by_class(grown, scores[rows, classes], classes, spec.overlap)
    certain = torch.zeros(len(scores)).scatter_reduce(0, rows[kept], scores[rows[kept], classes[kept]], "amax")
    best = scores.max(1)
    # What was found comes first, by its certainty; then the rest, by the best that can be said of it.
    order = torch.argsort(torch.where(certain > 0, certain + 1, best.values), descending=True, stable=True)
    count = min(max(int((certain > 0).sum()), spec.least), spec.regions)
    chosen = order[:count]
    return chosen.to(said.features.device), boxes[chosen, best.indices[chosen]]


def padded(pixels: Tensor, multiple: int) -> Tensor:
    """Return an image with zeros to the right and below, so that its sides are multiples."""
    height, width = pixels.shape[-2:]
    return pad(pixels, (0, -width % multiple, 0, -height % multiple))
