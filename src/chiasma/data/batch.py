"""The tensors that flow through a model, and the legend of shapes.

======  ==========================================
letter  meaning
======  ==========================================
B       examples in a batch
N       tokens (of one modality, or after fusion)
Q, K    query tokens, key tokens
D       width of a token
H       attention heads
C       classes, labels or regression targets
M       members of a population
P       height and width of an image, as ``C P P``
L       length of a text in token ids
======  ==========================================

Masks are True where there is something. A row whose mask is all False is an absent modality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

Label = str | tuple[str, ...] | float | tuple[float, ...]


@dataclass(frozen=True)
class Sample:
    """One example as a person would write it.

    Attributes:
        id: Unique in its dataset.
        parts: What there is, by modality: an image as ``H W 3`` uint8, a text as a string; a part may be absent.
        label: None where it is to be predicted.
        allowed: The classes it can have; None for all.
    """

    id: str
    parts: Mapping[str, "np.ndarray | str"]
    label: Label | None = None
    allowed: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Tokens:
    """A sequence of vectors an example, with a mask and, for regions of an image, their boxes.

    Attributes:
        x: The vectors.
        mask: True where a vector counts. Nothing may depend on the others.
        boxes: ``x1 y1 x2 y2 area`` in parts of the image, or None.
    """

    x: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"]
    boxes: Float[Tensor, "B N 5"] | None = None

    @staticmethod
    def single(x: Float[Tensor, "B D"], mask: Bool[Tensor, " B"] | None = None) -> "Tokens":
        """Wrap one vector an example; present everywhere unless ``mask`` says otherwise."""
        present = x.new_ones(x.shape[0], dtype=torch.bool) if mask is None else mask
        return Tokens(x[:, None], present[:, None])

    def mean(self) -> Float[Tensor, "B D"]:
        """Return the mean of the tokens that count; zeros for a row without any."""
        counts = self.mask.sum(1, keepdim=True, dtype=self.x.dtype)
        return cleared(self.x, self.mask).sum(1) / counts.clamp(min=1.0)

    def present(self) -> Bool[Tensor, " B"]:
        """Return which rows have at least one token."""
        return self.mask.any(1)

    def only(self, present: Bool[Tensor, " B"]) -> "Tokens":
        """Return the same tokens with absent rows masked and zeroed."""
        mask = self.mask & present[:, None]
        return Tokens(cleared(self.x, mask), mask, self.boxes)

    def to(self, device: torch.device | str) -> "Tokens":
        """Return the same tokens on another device."""
        boxes = None if self.boxes is None else self.boxes.to(device)
        return Tokens(self.x.to(device), self.mask.to(device), boxes)


def cleared(x: Shaped[Tensor, "B *rest"], mask: Bool[Tensor, "B *some"]) -> Shaped[Tensor, "B *rest"]:
    """Return ``x`` with zeros wherever the mask of its leading dimensions is False, even where ``x`` is NaN.

    Nothing is copied where nothing is masked, if asking is free: of a plain tensor on the CPU, outside of compilation.
    """
    if type(mask) is Tensor and mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all()):
        return x
    return x.masked_fill(~mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), 0)


def beside(parts: Sequence[Tokens]) -> Tokens:
    """Return the tokens of several parts in one sequence, none of which has seen another; one part as it is."""
    if len(parts) == 1:
        return parts[0]
    return Tokens(torch.cat([part.x for part in parts], dim=1), torch.cat([part.mask for part in parts], dim=1))


@dataclass(frozen=True)
class Batch:
    """Model inputs of several examples. Labels travel beside it, never in it.

    Attributes:
        inputs: By modality: images as float ``B C P P`` in 0..1, texts as int64 ``B L`` with 0 for padding, or
            ready-made :class:`Tokens`. Absent parts hold zeros.
        present: By modality, which rows have it.
        ids: The examples' ids.
    """

    inputs: Mapping[str, Tensor | Tokens]
    present: Mapping[str, Bool[Tensor, " B"]]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch on another device."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(inputs, {name: mask.to(device) for name, mask in self.present.items()}, self.ids)


@dataclass(frozen=True)
class TokenBatch:
    """What the encoders return: tokens by modality, before fusion."""

    tokens: Mapping[str, Tokens]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Output:
    """What a model returns.

    Attributes:
        logits: Class scores, label scores, or regression values in standardised units; of pairs the direction of the
            image beside that of the text.
        penalty: What a part of the model wants added to the loss while training; None for nothing.
        log_variances: How uncertain the model finds each of several tasks, by which their losses are weighed; None
            for one task, or where all count alike.
    """

    logits: Float[Tensor, "B C"]
    penalty: Float[Tensor, ""] | None = None
    log_variances: Float[Tensor, " tasks"] | None = None
