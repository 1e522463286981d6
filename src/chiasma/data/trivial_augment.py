"""One random operation of random strength for each image."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "B C P P"]
Strengths = Float[Tensor, " B"]

_DEGREES = 30.0
_SHEAR = 0.3
_SHIFT = 0.3
_BLEND = 0.9
_BITS = 4
_LEVELS = 256


def trivial_augment(x: Images, numbers: Float[Tensor, "B 2"]) -> Images:
    """Apply TrivialAugment (Müller and Hutter 2021, https://arxiv.org/abs/2103.10158).

    Its fourteen operations with the strengths of RandAugment rather than the paper's wide ones, which need large
    images; unlike the paper, moved images are interpolated linearly.

    Args:
        x: In 0..1; left as it is.
        numbers: From 0 to 1: which operation, and how strong; the middle does least.
    """
    chosen = (numbers[:, 0] * len(OPERATIONS)).long()
    strengths = 2 * numbers[:, 1] - 1
    result = x.clone()
    for place, operation in enumerate(OPERATIONS.values()):
        rows = (chosen == place).nonzero()[:, 0]
        if len(rows):
            here = rows.to(x.device)
            result[here] = operation(x[here], strengths[rows].to(x.device)).clamp(0, 1)
    return result


def _identity(x: Images, strength: Strengths) -> Images:
    return x


def _autocontrast(x: Images, strength: Strengths) -> Images:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def _equalize(x: Images, strength: Strengths) -> Images:
    """Spread the values of each channel evenly."""
    values = (x * (_LEVELS - 1)).round().long().flatten(2)
    counts = torch.zeros(*values.shape[:2], _LEVELS, dtype=torch.long, device=x.device)
    ranks = counts.scatter_add(2, values, torch.ones_like(values)).cumsum(2)
    lowest = ranks.gather(2, values.amin(2, keepdim=True))
    spread = values.shape[2] - lowest
    even = (ranks.gather(2, values) - lowest) / spread.clamp(min=1)
    return torch.where((spread > 0)[..., None], even.reshape(x.shape), x)


def _solarize(x: Images, strength: Strengths) -> Images:
    return torch.where(x > 1 - _of_images(strength.abs()), 1 - x, x)


def _posterize(x: Images, strength: Strengths) -> Images:
    step = 2.0 ** (strength.abs() * _BITS).round()
    size = _of_images(step)
    return (x * (_LEVELS - 1) / size).floor() * size / (_LEVELS - 1)


def _brightness(x: Images, strength: Strengths) -> Images:
    return _blend(torch.zeros_like(x), x, strength)


def _contrast(x: Images, strength: Strengths) -> Images:
    return _blend(x.mean((1, 2, 3), keepdim=True), x, strength)


def _colour(x: Images, strength: Strengths) -> Images:
    return _blend(x.mean(1, keepdim=True), x, strength)


def _sharpness(x: Images, strength: Strengths) -> Images:
    kernel = torch.ones(3, 3, device=x.device)
    kernel[1, 1] = 5
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 3, 3)
    smooth = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])
    return _blend(smooth, x, strength)


def _rotate(x: Images, strength: Strengths) -> Images:
    angle = strength * math.radians(_DEGREES)
    cosine, sine = angle.cos(), angle.sin()
    return _moved(x, [[cosine, -sine, None], [sine, cosine, None]])


def _shear_x(x: Images, strength: Strengths) -> Images:
    return _moved(x, [[None, strength * _SHEAR, None], [None, None, None]])


def _shear_y(x: Images, strength: Strengths) -> Images:
    return _moved(x, [[None, None, None], [strength * _SHEAR, None, None]])


def _translate_x(x: Images, strength: Strengths) -> Images:
    return _moved(x, [[None, None, 2 * _SHIFT * strength], [None, None, None]])


def _translate_y(x: Images, strength: Strengths) -> Images:
    return _moved(x, [[None, None, None], [None, None, 2 * _SHIFT * strength]])


OPERATIONS: dict[str, Callable[[Images, Strengths], Images]] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "colour": _colour,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
"""By name; a strength is between -1 and 1."""


def _blend(other: Tensor, x: Images, strength: Strengths) -> Images:
    """Move away from another image, or towards it where the strength is negative."""
    return other + (x - other) * _of_images(1 + _BLEND * strength)


def _moved(x: Images, entries: list[list[Tensor | None]]) -> Images:
    """Return images under an affine map, black beyond their edges; None is the entry of the identity."""
    matrix = torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)
    for row, values in enumerate(entries):
        for column, value in enumerate(values):
            if value is not None:
                matrix[:, row, column] = value
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _of_images(values: Strengths) -> Float[Tensor, "B 1 1 1"]:
    return values[:, None, None, None]
