"""Faster R-CNN on Visual Genome: ResNet-101 whose last stage sees regions, in the names of its published weights."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from chiasma.core.errors import ConfigError
from chiasma.core.files import sha256_file
from chiasma.core.rng import kept_torch_generator
from chiasma.model.encoders.extractor import Extractor, Identity, Place
from chiasma.model.encoders.extractors.anchors import decoded, everywhere, inside, pixel_anchors
from chiasma.model.encoders.extractors.box_ops import non_maximum, roi_align, roi_pool
from chiasma.model.encoders.extractors.checkpoints import fill_strictly, read_checkpoint
from chiasma.model.encoders.extractors.frozen import still, weights_file
from chiasma.model.encoders.extractors.regions import Detector, Prepared, Proposals, RegionExtractor, RegionSettings
from chiasma.model.encoders.extractors.residual import FrozenNorm, ResNetShape, stages

WHERE = "https://drive.google.com/file/d/18n_3V1rywgeADZ3oONO0DsuuS9eMW6sN/view"
STRIDE, CELLS = 16, 7
SCALES, RATIOS = (4, 8, 16, 32), (0.5, 1.0, 2.0)
MEAN = (102.9801, 115.9465, 122.7717)
"""Of blue, green and red, which are read in this order."""

SHORTEST, LONGEST = 600, 1000
CONSIDERED, PROPOSED, OVERLAP = 6000, 300, 0.7
STEPS = (10, 10, 5, 5)
"""One over the standard deviations by which targets were divided in training."""

POOLINGS = ("align", "pool")


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the defaults are the published ones.

    Attributes:
        classes: With background.
        pooling: How a region is cut out of the map.
    """

    depths: tuple[int, int, int, int] = (3, 4, 23, 3)
    width: int = 64
    hidden: int = 512
    classes: int = 1601
    pooling: str = "align"

    @property
    def backbone(self) -> ResNetShape:
        """Return the shape of the ResNet, which is Caffe's."""
        return ResNetShape(self.depths, width=self.width, early_stride=True)


class RegionDetector(Detector):
    """Faster R-CNN with its last stage behind the regions (C4).

    Ren et al. 2015 (https://arxiv.org/abs/1506.01497), trained as for bottom-up attention; corners of boxes are pixels
    that belong to them, as at that time.

    Args:
        shape: Sizes of the network.
    """

    border = 1.0

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        resnet = shape.backbone
        *first, last = stages(resnet)
        self.RCNN_base = nn.Sequential(
            nn.Conv2d(3, resnet.width, 7, stride=2, padding=3, bias=False),
            FrozenNorm(resnet.width, resnet.epsilon),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            *first,
        )
        self.RCNN_top = nn.Sequential(last)
        anchors = len(SCALES) * len(RATIOS)
        self.RCNN_rpn = nn.ModuleDict(
            {
                "RPN_Conv": nn.Conv2d(resnet.channels(2), shape.hidden, 3, padding=1),
                "RPN_cls_score": nn.Conv2d(shape.hidden, 2 * anchors, 1),
                "RPN_bbox_pred": nn.Conv2d(shape.hidden, 4 * anchors, 1),
            }
        )
        self.RCNN_cls_score = nn.Linear(resnet.channels(3), shape.classes)
        self.RCNN_bbox_pred = nn.Linear(resnet.channels(3), 4 * shape.classes)

    def shrink(self, image: Image.Image) -> Prepared:
        """Return an image whose shorter side is 600 pixels, or its longer one 1,000, in blue, green, red."""
        pixels = torch.from_numpy(np.array(image)[..., ::-1].copy()).permute(2, 0, 1).float()
        height, width = pixels.shape[1:]
        scale = SHORTEST / min(height, width)
        if round(scale * max(height, width)) > LONGEST:
            scale = LONGEST / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        resized = interpolate((pixels - torch.tensor(MEAN)[:, None, None])[None], size=size, mode="bilinear")[0]
        return Prepared(resized, *size)

    def propose(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Proposals]:
        """Return features, scores and boxes of up to 300 proposals an image."""
        seen = self.RCNN_base(images)
        regions = self._regions(seen, sizes)
        numbered = [torch.cat([each.new_full((len(each), 1), image), each], 1) for image, each in enumerate(regions)]
        rois = torch.cat(numbered)
        cut = roi_pool if self.shape.pooling == "pool" else roi_align
        pooled = cut(seen.float(), rois, size=CELLS, scale=1 / STRIDE)
        features = self.RCNN_top(pooled).float().mean((2, 3))
        scores = self.RCNN_cls_score(features).float().softmax(-1)[:, 1:]
        deltas = self.RCNN_bbox_pred(features).float().unflatten(1, (-1, 4))[:, 1:]
        boxes = decoded(rois[:, None, 1:], deltas, weights=STEPS, border=self.border, limit=torch.inf)
        said: list[Proposals] = []
        start = 0
        for each, (height, width) in zip(regions, sizes, strict=True):
            part = slice(start, start + len(each))
            cut_off = inside(boxes[part], height=height - 1, width=width - 1)
            said.append(Proposals(features[part], scores[part], cut_off))
            start += len(each)
        return said

    def _regions(self, seen: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Return the boxes that are proposed for each image."""
        hidden = relu(self.RCNN_rpn["RPN_Conv"](seen))
        # The first half of the channels speaks for background.
        background, object = self.RCNN_rpn["RPN_cls_score"](hidden).float().chunk(2, 1)
        scores = (object - background).sigmoid().permute(0, 2, 3, 1).flatten(1)
        deltas = self.RCNN_rpn["RPN_bbox_pred"](hidden).float().permute(0, 2, 3, 1).reshape(len(seen), -1, 4)
        rows, columns = seen.shape[-2:]
        anchors = pixel_anchors(STRIDE, RATIOS, SCALES).to(seen.device)
        anchors = everywhere(anchors, rows=rows, columns=columns, stride=(STRIDE, STRIDE))
        found: list[Tensor] = []
        for image, (height, width) in enumerate(sizes):
            best = scores[image].topk(min(CONSIDERED, scores.shape[1]))
            boxes = decoded(anchors[best.indices], deltas[image, best.indices], border=self.border, limit=torch.inf)
            boxes = inside(boxes, height=height - 1, width=width - 1)
            grown = torch.cat([boxes[:, :2], boxes[:, 2:] + self.border], 1)
            found.append(boxes[non_maximum(grown, best.values, OVERLAP, most=PROPOSED)])
        return found


class FasterRCNNVG(RegionSettings):
    """Regions of Faster R-CNN (ResNet-101) trained on Visual Genome's 1,600 classes, of width 2,048.

    Attributes:
        weights: The file ``faster_rcnn_res101_vg.pth``, or one in its layout.
        depths: Blocks of the ResNet's stages.
        width: Channels after its first convolution.
        hidden: Channels of the network that proposes regions.
        classes: With background.
    """

    kind: Literal["fasterrcnn_vg"] = "fasterrcnn_vg"
    weights: str = "faster_rcnn_res101_vg.pth"
    overlap: float = Field(default=0.3, gt=0, le=1)
    depths: tuple[int, int, int, int] = (3, 4, 23, 3)
    width: int = 64
    hidden: int = 512
    classes: int = 1601

    what: ClassVar[str] = "Faster R-CNN with ResNet-101 on Visual Genome (faster_rcnn_res101_vg.pth)"

    def build(self, place: Place) -> Extractor:
        """Return the extractor.

        Raises:
            ConfigError: There is no such file, or it does not hold these weights.
        """
        path = weights_file(self.weights, where=WHERE)
        tensors, rest = read_checkpoint(path)
        pooling = str(rest.get("pooling_mode", "align"))
        if pooling not in POOLINGS:
            raise ConfigError(
                f"The weights {path} were trained with pooling_mode={pooling}, but only align and pool are known."
            )
        shape = Shape(self.depths, self.width, self.hidden, self.classes, pooling)
        with kept_torch_generator():
            network = RegionDetector(shape)
        fill_strictly(network, tensors, what=self.what, path=path)
        settings = self.model_copy(update={"weights": ""}).to_json()
        identity = Identity(f"{settings} {place.dtype}", sha256_file(path), f"caffe {pooling}")
        still(network, place)
        return RegionExtractor(network, self, identity, place, dim=shape.backbone.channels(3))
