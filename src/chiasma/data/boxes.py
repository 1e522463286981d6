"""Boxes of tokens, as they are kept: ``x1 y1 x2 y2 area`` in parts of the image's own size."""

from collections.abc import Sequence

import numpy as np

Window = tuple[float, float, float, float]

WHOLE: Window = (0.0, 0.0, 1.0, 1.0)


def with_area(corners: np.ndarray) -> np.ndarray:
    """Return corners ``... 4`` in parts of an image, cut at its edges, with their area, ``... 5`` float32."""
    inside = np.clip(corners, 0, 1).astype(np.float32)
    sides = np.clip(inside[..., 2:] - inside[..., :2], 0, 1)
    return np.concatenate([inside, sides.prod(-1, keepdims=True)], -1)


def in_parts(corners: np.ndarray, *, width: float, height: float) -> np.ndarray:
    """Return boxes ``n 4`` in pixels of an image as ``n 5`` in parts of it."""
    return with_area(np.asarray(corners, dtype=np.float64) / (width, height, width, height))


def cells(rows: int, columns: int, windows: Sequence[Window], *, whole: bool = False) -> np.ndarray:
    """Return the boxes of a grid over what was seen of each image, ``b N 5``, row by row.

    Args:
        rows: Cells from top to bottom.
        columns: Cells from left to right.
        windows: What of each image was seen.
        whole: Put the box of all that was seen first, for a token that stands for everything.
    """
    x, y = np.arange(columns + 1) / columns, np.arange(rows + 1) / rows
    left, top = (part.reshape(-1) for part in np.meshgrid(x[:-1], y[:-1]))
    right, bottom = (part.reshape(-1) for part in np.meshgrid(x[1:], y[1:]))
    grid = np.stack([left, top, right, bottom], -1)
    if whole:
        grid = np.concatenate([[WHOLE], grid])
    seen = np.asarray(windows)[:, None]
    sides = seen[..., 2:] - seen[..., :2]
    corners = np.concatenate([grid[:, :2] * sides + seen[..., :2], grid[:, 2:] * sides + seen[..., :2]], -1)
    return with_area(corners)
