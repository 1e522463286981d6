"""Anchors of region proposal networks, and boxes from what they predict."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LARGEST_STEP = math.log(1000 / 16)
"""What a predicted logarithm of a side is cut at, as torchvision does: at most 1,000 pixels from 16."""


def centred_anchors(size: float, ratios: Sequence[float]) -> Tensor:
    """Return anchors around the origin of equal area, one a ratio of height to width, as torchvision rounds them."""
    heights = torch.tensor(ratios).sqrt()
    sides = torch.stack([size / heights, size * heights], 1)
    return (torch.cat([-sides, sides], 1) / 2).round()


def pixel_anchors(base: int, ratios: Sequence[float], scales: Sequence[float]) -> Tensor:
    """Return anchors whose corners are pixels of a first cell, one a ratio and scale, as the first Faster R-CNN does.

    Args:
        base: Pixels a side of a cell.
        ratios: Of height to width.
        scales: Of an anchor to the cell.
    """
    middle = (base - 1) / 2
    boxes: list[list[float]] = []
    for ratio in ratios:
        width = np.round(np.sqrt(base * base / ratio))
        height = np.round(width * ratio)
        for scale in scales:
            x, y = (width * scale - 1) / 2, (height * scale - 1) / 2
            boxes.append([middle - x, middle - y, middle + x, middle + y])
    return torch.tensor(boxes, dtype=torch.float32)


def everywhere(anchors: Tensor, *, rows: int, columns: int, stride: tuple[int, int]) -> Tensor:
    """Return anchors ``a 4`` at every cell of a map, row by row, ``rows*columns*a 4``.

    Args:
        anchors: At the first cell.
        rows: Cells from top to bottom.
        columns: Cells from left to right.
        stride: Pixels of the image from one cell to the next, down and to the right.
    """
    down = torch.arange(rows, device=anchors.device) * stride[0]
    right = torch.arange(columns, device=anchors.device) * stride[1]
    y, x = torch.meshgrid(down, right, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + anchors).reshape(-1, 4)


def decoded(
    boxes: Tensor, deltas: Tensor, *, weights: Sequence[float] = (1, 1, 1, 1), border: float = 0.0, limit: float
) -> Tensor:
    """Return boxes moved and stretched by what a network predicts for them.

    Args:
        boxes: ``... 4``.
        deltas: ``... 4``: steps of the centre in parts of the sides, and logarithms of the sides' factors.
        weights: What the deltas are divided by.
        border: 1 where corners are pixels that belong to the box, 0 where they are points.
        limit: Largest logarithm.
    """
    sides = boxes[..., 2:] - boxes[..., :2] + border
    centres = boxes[..., :2] + 0.5 * sides
    steps = deltas / deltas.new_tensor(weights)
    centres = steps[..., :2] * sides + centres
    halves = 0.5 * steps[..., 2:].clamp(max=limit).exp() * sides
    return torch.cat([centres - halves, centres + halves], -1)


def inside(boxes: Tensor, *, height: float, width: float) -> Tensor:
    """Return boxes cut at the edges of an image."""
    return torch.stack(
        [
            boxes[..., 0].clamp(0, width),
            boxes[..., 1].clamp(0, height),
            boxes[..., 2].clamp(0, width),
            boxes[..., 3].clamp(0, height),
        ],
        -1,
    )
