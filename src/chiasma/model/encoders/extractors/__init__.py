"""Extractors: frozen networks whose tokens are made once and kept. The union is the table of all there are."""

from typing import Annotated

from pydantic import Field

from chiasma.model.encoders.extractor import ExtractorPlugin
from chiasma.model.encoders.extractors.coco import FasterRCNN
from chiasma.model.encoders.extractors.detr import DETR
from chiasma.model.encoders.extractors.grids import CLIP, DINOv2, ResNet
from chiasma.model.encoders.extractors.pixels import Pixels
from chiasma.model.encoders.extractors.texts import T5
from chiasma.model.encoders.extractors.visual_genome import FasterRCNNVG

ExtractorSpec = Annotated[
    Pixels | ResNet | CLIP | DINOv2 | DETR | FasterRCNN | FasterRCNNVG | T5 | ExtractorPlugin,
    Field(discriminator="kind"),
]

__all__ = [
    "CLIP",
    "DETR",
    "T5",
    "DINOv2",
    "ExtractorSpec",
    "FasterRCNN",
    "FasterRCNNVG",
    "Pixels",
    "ResNet",
]
