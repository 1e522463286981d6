"""Faster R-CNN on COCO: torchvision's ResNet-50 with a feature pyramid, in its names, without torchvision."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from chiasma.core.files import sha256_file
from chiasma.core.rng import kept_torch_generator
from chiasma.model.encoders.extractor import Extractor, Identity, Place
from chiasma.model.encoders.extractors.anchors import LARGEST_STEP, centred_anchors, decoded, everywhere, inside
from chiasma.model.encoders.extractors.box_ops import non_maximum_by_class, roi_align
from chiasma.model.encoders.extractors.checkpoints import fill_strictly, read_checkpoint
from chiasma.model.encoders.extractors.frozen import still, weights_file
from chiasma.model.encoders.extractors.regions import (
    Detector,
    Prepared,
    Proposals,
    RegionExtractor,
    RegionSettings,
    padded,
)
from chiasma.model.encoders.extractors.residual import FrozenNorm, ResNetShape, stages

WHERE = "https://download.pytorch.org/models/ (torchvision)"
ANCHOR_SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORTEST, LONGEST = 800, 1333
PROPOSED, OVERLAP, SMALLEST = 1000, 0.7, 1e-3
CELLS, SAMPLES = 7, 2
USUAL_LEVEL, USUAL_SIDE = 2, 224


@dataclass(frozen=True)
class Pyramid:
    """Sizes of the network; the defaults are the published ones.

    Attributes:
        second: torchvision's second version: norms instead of biases, and convolutions before the last layer.
        dim: Channels of the pyramid.
        hidden: Width of a region's features.
        classes: With background.
    """

    second: bool
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    dim: int = 256
    hidden: int = 1024
    classes: int = 91

    @property
    def backbone(self) -> ResNetShape:
        """Return the shape of the ResNet, whose norms add nothing in the first version."""
        return ResNetShape(self.depths, width=self.width, epsilon=1e-5 if self.second else 0.0)


def _convolution(channels: int, out: int, size: int, *, norm: bool, rectified: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, out, size, padding=size // 2, bias=not norm)]
    layers += [FrozenNorm(out, 1e-5)] if norm else []
    layers += [nn.ReLU()] if rectified else []
    return nn.Sequential(*layers)


class _Body(nn.Module):
    def __init__(self, shape: Pyramid) -> None:
        super().__init__()
        resnet = shape.backbone
        self.conv1 = nn.Conv2d(3, resnet.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenNorm(resnet.width, resnet.epsilon)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(resnet)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = max_pool2d(relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class _Pyramid(nn.Module):
    def __init__(self, shape: Pyramid) -> None:
        super().__init__()
        widths = [shape.backbone.channels(stage) for stage in range(4)]
        self.inner_blocks = nn.ModuleList(_convolution(width, shape.dim, 1, norm=shape.second) for width in widths)
        self.layer_blocks = nn.ModuleList(_convolution(shape.dim, shape.dim, 3, norm=shape.second) for _ in widths)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        top = self.inner_blocks[-1](maps[-1])
        seen = [self.layer_blocks[-1](top)]
        for level in range(len(maps) - 2, -1, -1):
            side = self.inner_blocks[level](maps[level])
            top = side + interpolate(top, size=side.shape[-2:], mode="nearest")
            seen.insert(0, self.layer_blocks[level](top))
        return [*seen, max_pool2d(seen[-1], 1, stride=2)]


class _ProposalHead(nn.Module):
    def __init__(self, shape: Pyramid) -> None:
        super().__init__()
        count = 2 if shape.second else 1
        self.conv = nn.Sequential(
            *(_convolution(shape.dim, shape.dim, 3, norm=False, rectified=True) for _ in range(count))
        )
        self.cls_logits = nn.Conv2d(shape.dim, len(RATIOS), 1)
        self.bbox_pred = nn.Conv2d(shape.dim, 4 * len(RATIOS), 1)


class _TwoLayers(nn.Module):
    def __init__(self, shape: Pyramid) -> None:
        super().__init__()
        self.fc6 = nn.Linear(shape.dim * CELLS**2, shape.hidden)
        self.fc7 = nn.Linear(shape.hidden, shape.hidden)

    def forward(self, pooled: Tensor) -> Tensor:
        return relu(self.fc7(relu(self.fc6(pooled.flatten(1)))))


def _box_head(shape: Pyramid) -> nn.Module:
    if not shape.second:
        return _TwoLayers(shape)
    convolutions = (_convolution(shape.dim, shape.dim, 3, norm=True, rectified=True) for _ in range(4))
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(shape.dim * CELLS**2, shape.hidden), nn.ReLU())


class PyramidDetector(Detector):
    """Faster R-CNN with a feature pyramid, as torchvision builds it.

    Ren et al. 2015 (https://arxiv.org/abs/1506.01497), Lin et al. 2017 (https://arxiv.org/abs/1612.03144). A region's
    features are those of its proposal, before its box is refined, as in bottom-up attention.

    Args:
        shape: Sizes of the network.
    """

    def __init__(self, shape: Pyramid) -> None:
        super().__init__()
        self.shape = shape
        self.backbone = nn.ModuleDict({"body": _Body(shape), "fpn": _Pyramid(shape)})
        self.rpn = nn.ModuleDict({"head": _ProposalHead(shape)})
        predictor = nn.ModuleDict(
            {
                "cls_score": nn.Linear(shape.hidden, shape.classes),
                "bbox_pred": nn.Linear(shape.hidden, 4 * shape.classes),
            }
        )
        self.roi_heads = nn.ModuleDict({"box_head": _box_head(shape), "box_predictor": predictor})

    def shrink(self, image: Image.Image) -> Prepared:
        """Return an image whose shorter side is 800 pixels, or its longer one 1,333, padded to multiples of 32."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        low, high = (np.float32(side) for side in (min(pixels.shape[1:]), max(pixels.shape[1:])))
        factor = float(min(np.float32(SHORTEST) / low, np.float32(LONGEST) / high))
        resized = interpolate(
            ((pixels - mean) / deviation)[None], scale_factor=factor, mode="bilinear", recompute_scale_factor=True
        )[0]
        return Prepared(padded(resized, 32), *resized.shape[-2:])

    def propose(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Proposals]:
        """Return features, scores and boxes of up to 1,000 proposals an image."""
        maps = self.backbone["fpn"](self.backbone["body"](images))
        regions = self._regions(maps, (images.shape[-2], images.shape[-1]), sizes)
        pooled = self._pooled([level.float() for level in maps[:4]], regions)
        features = self.roi_heads["box_head"](pooled).float()
        predictor: Any = self.roi_heads["box_predictor"]
        scores = predictor["cls_score"](features).float().softmax(-1)[:, 1:]
        deltas = predictor["bbox_pred"](features).float().unflatten(1, (-1, 4))[:, 1:]
        said: list[Proposals] = []
        start = 0
        for boxes, (height, width) in zip(regions, sizes, strict=True):
            part = slice(start, start + len(boxes))
            moved = decoded(boxes[:, None], deltas[part], weights=(10, 10, 5, 5), limit=LARGEST_STEP)
            said.append(Proposals(features[part], scores[part], inside(moved, height=height, width=width)))
            start += len(boxes)
        return said

    def _regions(self, maps: list[Tensor], padded_size: tuple[int, int], sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Return the boxes that are proposed for each image."""
        head: Any = self.rpn["head"]
        found: list[list[tuple[Tensor, Tensor, int]]] = [[] for _ in sizes]
        for level, (seen, size) in enumerate(zip(maps, ANCHOR_SIZES, strict=True)):
            rows, columns = seen.shape[-2:]
            stride = (padded_size[0] // rows, padded_size[1] // columns)
            anchors = centred_anchors(size, RATIOS).to(seen.device)
            anchors = everywhere(anchors, rows=rows, columns=columns, stride=stride)
            hidden = head.conv(seen)
            logits = head.cls_logits(hidden).float().permute(0, 2, 3, 1).flatten(1)
            deltas = (
                head.bbox_pred(hidden).float().unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(len(seen), -1, 4)
            )
            best = logits.topk(min(PROPOSED, logits.shape[1]), 1)
            for image, (scores, places) in enumerate(zip(best.values, best.indices, strict=True)):
                boxes = decoded(anchors[places], deltas[image, places], limit=LARGEST_STEP)
                height, width = sizes[image]
                found[image].append((inside(boxes, height=height, width=width), scores.sigmoid(), level))
        return [_spread(levels) for levels in found]

    def _pooled(self, maps: list[Tensor], regions: list[Tensor]) -> Tensor:
        """Return the part of the pyramid below each region, from the level that suits its size."""
        boxes = torch.cat(regions)
        image = torch.cat([boxes.new_full((len(each), 1), number) for number, each in enumerate(regions)])
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        level = (USUAL_LEVEL + torch.log2(sides / USUAL_SIDE) + 1e-6).floor().clamp(0, len(maps) - 1).long()
        pooled = boxes.new_zeros(len(boxes), maps[0].shape[1], CELLS, CELLS)
        for number, seen in enumerate(maps):
            here = (level == number).nonzero()[:, 0]
            rois = torch.cat([image[here], boxes[here]], 1)
            pooled[here] = roi_align(seen, rois, size=CELLS, scale=1 / 2 ** (2 + number), samples=SAMPLES)
        return pooled


def _spread(levels: list[tuple[Tensor, Tensor, int]]) -> Tensor:
    """Return the boxes of all levels that do not overlap others of their level, at most 1,000."""
    boxes = torch.cat([each for each, _, _ in levels])
    scores = torch.cat([each for _, each, _ in levels])
    numbers = torch.cat([torch.full((len(each),), level, device=boxes.device) for each, _, level in levels])
    large = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(1).nonzero()[:, 0]
    kept = non_maximum_by_class(boxes[large], scores[large], numbers[large], OVERLAP, most=PROPOSED)
    return boxes[large[kept]]


def current_name(name: str) -> str:
    """Return the name that a weight of an old file has today."""
    parts = name.split(".")
    if len(parts) == 5 and parts[2] in ("inner_blocks", "layer_blocks"):
        return ".".join([*parts[:4], "0", parts[4]])
    if parts[:3] == ["rpn", "head", "conv"] and len(parts) == 4:
        return ".".join([*parts[:3], "0", "0", parts[3]])
    return name


class FasterRCNN(RegionSettings):
    """Regions of Faster R-CNN trained on COCO, of width 1,024, from torchvision's ResNet-50 with a feature pyramid.

    Attributes:
        weights: A file of torchvision's, of the first or the second version.
        depths: Blocks of the ResNet's stages.
        width: Channels after its first convolution.
        dim: Channels of the pyramid.
        hidden: Width of a region's features.
        classes: With background.
    """

    kind: Literal["fasterrcnn"] = "fasterrcnn"
    weights: str = "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    dim: int = 256
    hidden: int = 1024
    classes: int = 91

    what: ClassVar[str] = "torchvision's Faster R-CNN with ResNet-50 and a feature pyramid"

    def build(self, place: Place) -> Extractor:
        """Return the extractor.

        Raises:
            ConfigError: There is no such file, or it does not hold these weights.
        """
        path = weights_file(self.weights, where=WHERE)
        tensors, _ = read_checkpoint(path)
        second = "roi_heads.box_head.fc6.weight" not in tensors
        shape = Pyramid(second, self.depths, self.width, self.dim, self.hidden, self.classes)
        with kept_torch_generator():
            network = PyramidDetector(shape)
        fill_strictly(network, tensors, what=self.what, path=path, rename=current_name)
        settings = self.model_copy(update={"weights": ""}).to_json()
        identity = Identity(f"{settings} {place.dtype}", sha256_file(path), "torchvision")
        still(network, place)
        return RegionExtractor(network, self, identity, place, dim=self.hidden)
