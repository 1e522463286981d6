"""Grids of cells or patches that a published image network sees: ResNet, CLIP and DINOv2."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from chiasma.data.boxes import cells
from chiasma.data.feature_store import Encoded
from chiasma.data.published import Published, content_sha256
from chiasma.data.published_images import read_image_processor
from chiasma.model.encoders.backbone import FIRST
from chiasma.model.encoders.extractor import Extractor, ExtractorSettings, Identity, Place, Reads
from chiasma.model.encoders.extractors.frozen import Frozen, load_frozen


class GridExtractor(Extractor):
    """The last hidden state of a published image network, as its own image processor prepares images.

    Args:
        frozen: The network.
        source: Whose image processor it is.
        place: Where it computes.
        grid: Rows and columns that a map of features is averaged to; None for tokens as they come.
    """

    def __init__(self, frozen: Frozen, source: Published, place: Place, *, grid: int | None) -> None:
        self.frozen = frozen
        self.place = place
        self.grid = grid
        self.processor = read_image_processor(source)
        shape = (-1, 1, 1)
        self.mean = torch.tensor(self.processor.mean).reshape(shape).to(place.device)
        self.deviation = torch.tensor(self.processor.deviation).reshape(shape).to(place.device)

    @property
    def identity(self) -> Identity:
        """Return the architecture with the grid, the weights and the image processor."""
        name = content_sha256([self.frozen.architecture, self.grid, str(self.place.dtype)])
        return Identity(f"{self.frozen.architecture['model_type']} {name}", self.frozen.weights, self.processor.sha256)

    def prepare(self, content: Image.Image | str) -> Any:
        """Return the pixels that the network sees, and which part of the image they are."""
        assert isinstance(content, Image.Image)
        framing = self.processor.framing
        return framing.apply(content), framing.window(content.height, content.width)

    def encode(self, prepared: list[Any]) -> Encoded:
        """Return a token for each cell, after one for the whole where the network has a class token."""
        pixels = torch.from_numpy(np.stack([pixels for pixels, _ in prepared])).to(self.place.device)
        with torch.inference_mode(), self.place.arithmetic():
            hidden = self._seen((pixels.float() / 255 - self.mean) / self.deviation)
        rows, columns = self._shape()
        whole = self.frozen.architecture["model_type"] in FIRST
        windows = [window for _, window in prepared]
        return Encoded(hidden.float().cpu().numpy(), boxes=cells(rows, columns, windows, whole=whole))

    def _shape(self) -> tuple[int, int]:
        """Return rows and columns of the cells."""
        if self.grid is not None:
            return self.grid, self.grid
        height, width = self.processor.framing.size
        patch = self.frozen.architecture["patch_size"]
        return height // patch, width // patch

    def _seen(self, images: Tensor) -> Tensor:
        network = self.frozen.network
        hidden = network(pixel_values=images).last_hidden_state
        if hidden.ndim == 4:
            assert self.grid is not None
            return adaptive_avg_pool2d(hidden, self.grid).flatten(2).transpose(1, 2)
        if self.frozen.architecture["model_type"] == "clip_vision_model":
            # As in encoders/pretrained.py: the class token's norm makes the patches comparable with it.
            norm = next(name for name, _ in network.named_modules() if name.rpartition(".")[2] == "post_layernorm")
            return network.get_submodule(norm)(hidden)
        return hidden


class ResNet(ExtractorSettings):
    """The last map of a ResNet, averaged to a square grid: 36 cells of width 2048 with the published ResNet-152.

    The images are cut to the square that its image processor sees, and so are the boxes of the cells.

    Attributes:
        weights: A folder in the layout of ``save_pretrained``, or a name of the hub.
        revision: Branch, tag or commit on the hub.
        grid: Rows and columns.
    """

    reads: ClassVar[Reads] = "image"
    batch_size: ClassVar[int] = 64

    kind: Literal["resnet"] = "resnet"
    weights: str = "microsoft/resnet-152"
    revision: str | None = None
    grid: int = Field(default=6, ge=1, le=14)

    def build(self, place: Place) -> Extractor:
        """Return the extractor; errors as in ``load_frozen`` and ``read_image_processor``."""
        frozen = load_frozen(self.weights, self.revision, reads="image", kinds=("resnet",), place=place)
        return GridExtractor(frozen, Published(name=self.weights, revision=self.revision), place, grid=self.grid)


class CLIP(ExtractorSettings):
    """The class token of CLIP's image tower, then its patches: 1 + 49 of width 768 with the published ViT-B/32.

    All pass the tower's final norm. The published projection to 512 is left out: the model that reads the tokens
    learns its own.

    Attributes:
        weights: A folder in the layout of ``save_pretrained``, or a name of the hub.
        revision: Branch, tag or commit on the hub.
    """

    reads: ClassVar[Reads] = "image"
    batch_size: ClassVar[int] = 64

    kind: Literal["clip"] = "clip"
    weights: str = "openai/clip-vit-base-patch32"
    revision: str | None = None

    def build(self, place: Place) -> Extractor:
        """Return the extractor; errors as in ``load_frozen`` and ``read_image_processor``."""
        frozen = load_frozen(self.weights, self.revision, reads="image", kinds=("clip_vision_model",), place=place)
        return GridExtractor(frozen, Published(name=self.weights, revision=self.revision), place, grid=None)


class DINOv2(ExtractorSettings):
    """The class token of DINOv2, then its patches: 1 + 256 of width 768 with the published base model.

    Attributes:
        weights: A folder in the layout of ``save_pretrained``, or a name of the hub.
        revision: Branch, tag or commit on the hub.
    """

    reads: ClassVar[Reads] = "image"
    batch_size: ClassVar[int] = 64

    kind: Literal["dinov2"] = "dinov2"
    weights: str = "facebook/dinov2-base"
    revision: str | None = None

    def build(self, place: Place) -> Extractor:
        """Return the extractor; errors as in ``load_frozen`` and ``read_image_processor``."""
        frozen = load_frozen(self.weights, self.revision, reads="image", kinds=("dinov2",), place=place)
        return GridExtractor(frozen, Published(name=self.weights, revision=self.revision), place, grid=None)
