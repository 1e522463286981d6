"""Training examples that differ at every look: which variations, and how they are drawn and applied."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from chiasma.core.errors import ConfigError
from chiasma.core.rng import numpy_rng
from chiasma.core.spec import Spec
from chiasma.data.batch import Batch, Tokens, cleared
from chiasma.data.signature import Signature, TextInput
from chiasma.data.trivial_augment import trivial_augment

Draw = Callable[[str, int], Tensor]
"""``draw("flip", 2)`` gives ``B 2`` numbers from 0 to 1 for one purpose."""

_ERASED = (0.02, 0.33)
_LONGEST_SIDE = 3.3


class AugmentSpec(Spec):
    """How training examples are varied; all is off by default, and evaluation always sees them as they are.

    A mirrored digit or word means something else, so that nothing here suits every data. Ready-made tokens cannot be
    varied but by ``modality_dropout``.

    Attributes:
        crop: Pad images with black by this part of their side, and cut the old size out at a random place.
        flip: Mirror every second image, left to right.
        colour: Largest change of brightness, contrast and saturation, as a part of each.
        erase: Share of the images of which a random rectangle is painted over in one colour.
        trivial: Apply one random operation of random strength to each image.
        word_dropout: Share of the word pieces that become the unknown piece.
        modality_dropout: Share of the examples with image and text that lose one of them, either as often.
    """

    crop: float = Field(default=0.0, ge=0, le=0.5)
    flip: bool = False
    colour: float = Field(default=0.0, ge=0, le=1)
    erase: float = Field(default=0.0, ge=0, le=1)
    trivial: bool = False
    word_dropout: float = Field(default=0.0, ge=0, lt=1)
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)


def augmented(
    batches: Sequence[Batch],
    spec: AugmentSpec,
    signature: Signature,
    *,
    seed: int,
    step: int,
    starts: Sequence[int] | None = None,
) -> Sequence[Batch]:
    """Return the micro-batches of one step, varied.

    What is drawn for an example follows from seed, step, purpose and the example's place in the step alone: it is the
    same for every model, however the step is cut into micro-batches and shared out, and whatever else is varied.

    Args:
        batches: On any device; they are left as they are.
        spec: What to vary.
        signature: What they look like.
        seed: The seed of the training.
        step: Counted from 0.
        starts: Place in the step of the first example of each batch; None where each follows the one before.
    """
    if spec == AugmentSpec():
        return batches
    lengths = [len(batch) for batch in batches]
    places = [sum(lengths[:number]) for number in range(len(lengths))] if starts is None else starts
    noise = _Noise(seed, step, count=max((s + n for s, n in zip(places, lengths, strict=True)), default=0))
    return [
        _varied(batch, spec, signature, noise.of_rows(start, start + len(batch)))
        for batch, start in zip(batches, places, strict=True)
    ]


class _Noise:
    """Numbers for the first examples of a step, by purpose; a stream begins alike however many are drawn."""

    def __init__(self, seed: int, step: int, *, count: int) -> None:
        self._path = (seed, "augment", step)
        self._count = count
        self._drawn: dict[str, Tensor] = {}

    def of_rows(self, start: int, end: int) -> Draw:
        """Return how the numbers of some examples are drawn."""

        def draw(purpose: str, width: int) -> Tensor:
            if purpose not in self._drawn:
                values = numpy_rng(*self._path, purpose).random((self._count, width), dtype="float32")
                self._drawn[purpose] = torch.from_numpy(values)
            return self._drawn[purpose][start:end]

        return draw


def _varied(batch: Batch, spec: AugmentSpec, signature: Signature, draw: Draw) -> Batch:
    inputs = dict(batch.inputs)
    for name, value in batch.inputs.items():
        if isinstance(value, Tokens):
            continue
        if value.is_floating_point():
            inputs[name] = cleared(_varied_images(value, spec, draw), batch.present[name])
        elif spec.word_dropout:
            kind = signature.inputs[name]
            assert isinstance(kind, TextInput)
            inputs[name] = drop_words(value, spec.word_dropout, kind, draw)
    varied = Batch(inputs, batch.present, batch.ids)
    return drop_modalities(varied, spec.modality_dropout, draw) if spec.modality_dropout else varied


def _varied_images(x: Float[Tensor, "B C P P"], spec: AugmentSpec, draw: Draw) -> Float[Tensor, "B C P P"]:
    if spec.crop:
        x = crop(x, spec.crop, draw)
    if spec.flip:
        x = flip(x, draw)
    if spec.colour:
        x = jitter_colour(x, spec.colour, draw)
    if spec.trivial:
        x = trivial_augment(x, draw("trivial", 2))
    return erase(x, spec.erase, draw) if spec.erase else x


def crop(x: Float[Tensor, "B C P P"], part: float, draw: Draw) -> Float[Tensor, "B C P P"]:
    """Pad with black by a part of the side (one pixel at least), and cut the old size out at a random place."""
    height, width = x.shape[-2:]
    margins = [max(1, round(part * side)) for side in (height, width)]
    padded = F.pad(x, (margins[1], margins[1], margins[0], margins[0]))
    last = torch.tensor([2 * margin for margin in margins], device=x.device)
    offsets = torch.minimum((draw("crop", 2).to(x.device) * (last + 1)).long(), last)
    rows = offsets[:, 0, None] + torch.arange(height, device=x.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=x.device)
    examples = torch.arange(len(x), device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[:, None, None]
    return padded[examples, channels, rows[:, None, :, None], columns[:, None, None, :]]


def flip(x: Float[Tensor, "B C P P"], draw: Draw) -> Float[Tensor, "B C P P"]:
    """Mirror every second image on average, left to right."""
    return torch.where(_each(draw("flip", 1)[:, 0] < 0.5, x), x.flip(-1), x)


def jitter_colour(x: Float[Tensor, "B C P P"], largest: float, draw: Draw) -> Float[Tensor, "B C P P"]:
    """Change brightness, then contrast, then saturation, each by a factor between ``1 - largest`` and ``1 + largest``.

    Unlike torchvision's, always in this order and without the hue.
    """
    factors = 1 + largest * (2 * draw("colour", 3).to(x.device) - 1)
    brightness, contrast, saturation = (_each(factors[:, place], x) for place in range(3))
    x = (x * brightness).clamp(0, 1)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (middle + (x - middle) * contrast).clamp(0, 1)
    grey = x.mean(1, keepdim=True)
    return (grey + (x - grey) * saturation).clamp(0, 1)


def erase(x: Float[Tensor, "B C P P"], share: float, draw: Draw) -> Float[Tensor, "B C P P"]:
    """Paint over a rectangle of a share of the images.

    Random erasing of Zhong et al. 2020 (https://arxiv.org/abs/1708.04896), with its sizes; unlike the paper, in one
    random colour rather than in noise.
    """
    numbers = draw("erase", 5 + x.shape[1]).to(x.device)
    chosen, size, shape, top, left = numbers[:, :5].T
    low, high = _ERASED
    area = low + size * (high - low)
    stretch = _LONGEST_SIDE ** (shape - 0.5)
    height, width = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    inside = (
        _span(top * (1 - height), height, x.shape[-2])[:, :, None]
        & _span(left * (1 - width), width, x.shape[-1])[:, None]
    )
    painted = inside & (chosen < share)[:, None, None]
    return torch.where(painted[:, None], numbers[:, 5:, None, None], x)


def drop_words(ids: Int[Tensor, "B L"], share: float, kind: TextInput, draw: Draw) -> Int[Tensor, "B L"]:
    """Turn a share of the pieces into the one that stands for the unreadable; padding, start and separators stay.

    Raises:
        ConfigError: The tokenizer of the texts has no such piece.
    """
    if kind.blank is None:
        raise ConfigError(
            "train.augment.word_dropout: the tokenizer has neither a mask nor an unknown piece of its own, so that no "
            "word can be dropped. Set it to 0."
        )
    dropped = draw("words", ids.shape[1]).to(ids.device) < share
    special = torch.isin(ids, torch.tensor((0, *kind.special), device=ids.device))
    return ids.masked_fill(dropped & ~special, kind.blank)


def drop_modalities(batch: Batch, share: float, draw: Draw) -> Batch:
    """Make one modality of a share of the examples absent, where they have another."""
    names = sorted(batch.present)
    numbers = draw("modality", 2)
    lost = (numbers[:, 1] * len(names)).long()
    present: dict[str, Tensor] = {}
    for place, name in enumerate(names):
        others = _any_of(batch.present, [other for other in names if other != name])
        drop = ((numbers[:, 0] < share) & (lost == place)).to(others.device) & others
        present[name] = batch.present[name] & ~drop
    inputs = {
        name: value.only(present[name]) if isinstance(value, Tokens) else cleared(value, present[name])
        for name, value in batch.inputs.items()
    }
    return Batch(inputs, present, batch.ids)


def _any_of(present: Mapping[str, Bool[Tensor, " B"]], names: Sequence[str]) -> Bool[Tensor, " B"]:
    masks = [present[name] for name in names]
    first = next(iter(present.values()))
    return torch.stack(masks).any(0) if masks else torch.zeros_like(first)


def _span(start: Float[Tensor, " B"], length: Float[Tensor, " B"], side: int) -> Bool[Tensor, "B P"]:
    """Return which pixels lie in a part of a side."""
    middles = (torch.arange(side, device=start.device) + 0.5) / side
    return (middles >= start[:, None]) & (middles < (start + length)[:, None])


def _each(values: Tensor, x: Tensor) -> Tensor:
    """Return one value an image in the shape of images, on their device."""
    return values.to(x.device)[:, None, None, None]
