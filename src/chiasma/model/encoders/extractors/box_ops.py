"""Operators of detectors in plain torch, where torchvision's compiled ones are absent: suppression and pooling."""

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

_ROWS_AT_A_TIME = 32


def non_maximum(boxes: Tensor, scores: Tensor, threshold: float, *, most: int | None = None) -> Tensor:
    """Return which boxes stay when each one removes what overlaps it by more than ``threshold`` and scores less.

    Args:
        boxes: ``n 4``, ``x1 y1 x2 y2``.
        scores: ``n``.
        threshold: Of intersection over union.
        most: Stop after so many.

    Returns:
        Their positions, the highest score first.
    """
    if (native := torchvision_ops()) is not None:
        return native.nms(boxes, scores, threshold)[:most]
    return _suppressed(boxes, scores, None, threshold, most)


def non_maximum_by_class(
    boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, *, most: int | None = None
) -> Tensor:
    """Return the same where boxes of different classes leave each other alone."""
    if (native := torchvision_ops()) is not None:
        return native.batched_nms(boxes, scores, classes, threshold)[:most]
    return _suppressed(boxes, scores, classes, threshold, most)


def _suppressed(boxes: Tensor, scores: Tensor, classes: Tensor | None, threshold: float, most: int | None) -> Tensor:
    # On the CPU: each step waits for the one before, and an accelerator would be asked thousands of times.
    order = scores.cpu().argsort(descending=True, stable=True)
    ordered = boxes.cpu()[order].float()
    kind = None if classes is None else classes.cpu()[order]
    areas = (ordered[:, 2] - ordered[:, 0]) * (ordered[:, 3] - ordered[:, 1])
    there = torch.ones(len(order), dtype=torch.bool)
    kept: list[int] = []
    here = 0
    while here < len(order) and (most is None or len(kept) < most):
        kept.append(here)
        rest = slice(here + 1, None)
        corners = torch.maximum(ordered[rest, :2], ordered[here, :2])
        sides = (torch.minimum(ordered[rest, 2:], ordered[here, 2:]) - corners).clamp(min=0)
        common = sides[:, 0] * sides[:, 1]
        overlaps = common / (areas[rest] + areas[here] - common) > threshold
        if kind is not None:
            overlaps &= kind[rest] == kind[here]
        there[rest] &= ~overlaps
        left = there[rest].nonzero()
        if not len(left):
            break
        here += 1 + int(left[0])
    return order[kept].to(boxes.device)


def roi_align(
    features: Tensor, rois: Tensor, *, size: int, scale: float, samples: int = 0, aligned: bool = False
) -> Tensor:
    """Average bilinear samples of a feature map in a grid over each region.

    He et al. 2017 (https://arxiv.org/abs/1703.06870). The samples of a region form a grid and bilinear weights are
    products, so that it is two matrix products a region: rows, then columns.

    Args:
        features: ``B C H W``.
        rois: ``n 5``: which image, and ``x1 y1 x2 y2`` in its pixels.
        size: Cells a side of the result.
        scale: Pixels of the feature map for one of the image.
        samples: Samples a cell and side; 0 for as many as the cell has pixels.
        aligned: Pixels have their values at their centres.

    Returns:
        ``n C size size``.
    """
    if (native := torchvision_ops()) is not None:
        return native.roi_align(features, rois, size, scale, samples, aligned)
    offset = 0.5 if aligned else 0.0
    corners = rois[:, 1:].float() * scale - offset
    sides = corners[:, 2:] - corners[:, :2]
    sides = sides if aligned else sides.clamp(min=1.0)
    height, width = features.shape[-2:]
    result = features.new_zeros(len(rois), features.shape[1], size, size)
    for start in range(0, len(rois), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        columns = _averaging(corners[part, 0], sides[part, 0], size, width, samples).to(features.dtype)
        rows = _averaging(corners[part, 1], sides[part, 1], size, height, samples).to(features.dtype)
        for place, image in enumerate(rois[part, 0].long().tolist(), start=start):
            seen = features[image] @ columns[place - start].T
            result[place] = rows[place - start] @ seen
    return result


def _averaging(starts: Tensor, lengths: Tensor, size: int, pixels: int, samples: int) -> Tensor:
    """Return for each region how its ``size`` cells weigh the ``pixels`` of one axis, ``n size pixels``."""
    bins = lengths / size
    counts = torch.full_like(bins, samples) if samples > 0 else bins.ceil()
    most = max(1, int(counts.max())) if len(counts) else 1
    step = torch.arange(most, device=starts.device)
    inside = step < counts[:, None]
    within = (step + 0.5) * (bins / counts.clamp(min=1))[:, None]
    cell = torch.arange(size, device=starts.device) * bins[:, None]
    at = starts[:, None, None] + cell[:, :, None] + within[:, None, :]
    weight = (inside[:, None, :] & (at >= -1) & (at <= pixels)).float() / counts.clamp(min=1)[:, None, None]
    at = at.clamp(min=0)
    low = at.floor().clamp(max=pixels - 1)
    high = (low + 1).clamp(max=pixels - 1)
    part = torch.where(low >= pixels - 1, 0.0, at - low)
    weights = starts.new_zeros(len(starts), size, pixels)
    weights.scatter_add_(2, low.long(), weight * (1 - part))
    weights.scatter_add_(2, high.long(), weight * part)
    return weights


def roi_pool(features: Tensor, rois: Tensor, *, size: int, scale: float) -> Tensor:
    """Take the maximum of a feature map in each cell of a grid over each region, whose edges are whole pixels.

    Girshick 2015 (https://arxiv.org/abs/1504.08083). Arguments and result are those of :func:`roi_align`.
    """
    if (native := torchvision_ops()) is not None:
        return native.roi_pool(features, rois, size, scale)
    height, width = features.shape[-2:]
    # Away from zero at halves, as C rounds.
    scaled = rois[:, 1:].float() * scale
    edges = (scaled.sign() * (scaled.abs() + 0.5).floor()).long().tolist()
    result = features.new_zeros(len(rois), features.shape[1], size, size)
    for place, (image, (left, top, right, bottom)) in enumerate(zip(rois[:, 0].long().tolist(), edges, strict=True)):
        for row, (y1, y2) in enumerate(_cells(top, bottom, size, height)):
            if y1 >= y2:
                continue
            highest = features[image, :, y1:y2].amax(1)
            for column, (x1, x2) in enumerate(_cells(left, right, size, width)):
                if x1 < x2:
                    result[place, :, row, column] = highest[:, x1:x2].amax(1)
    return result


def _cells(start: int, end: int, size: int, pixels: int) -> list[tuple[int, int]]:
    """Return where each of ``size`` cells begins and ends, in pixels of the map."""
    length = max(end - start + 1, 1)
    spans = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    return [(min(max(low + start, 0), pixels), min(max(high + start, 0), pixels)) for low, high in spans]


@cache
def torchvision_ops() -> Any:
    """Return torchvision's operators where it can be imported beside this torch; else None."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        from torchvision import ops  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError, OSError):
        # Its binaries belong to another build of torch.
        return None
    return ops
