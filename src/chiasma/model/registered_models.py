"""Multimodal models of other people, in the form in which most of them are written: ids and regions in, logits out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from chiasma.core.errors import ConfigError
from chiasma.data.batch import Batch, Output, Tokens
from chiasma.data.signature import ImageInput, Signature, TextInput, TokensInput
from chiasma.model.plugins import register
from chiasma.model.registering import accepted, spec_of
from chiasma.model.whole import ModelPlugin, WholeModel, WholeModelSettings

GRID = 6
"""Most patches along a side into which an image is cut, where there are no ready-made regions."""

OF_THE_DATA = ("num_labels", "vocab_size", "visual_dim", "num_regions")


class BaseMultimodalModel(nn.Module, ABC):
    """A model that does everything itself; :func:`register_model` makes it one that Chiasma trains.

    Arguments of its constructor are settings of ``model.whole.options``. These are filled in from the data, where it
    asks for them: ``num_labels``, ``vocab_size``, ``visual_dim`` (width of a region) and ``num_regions``.
    """

    @abstractmethod
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        visual_features: Tensor,
        visual_attention_mask: Tensor | None = None,
        spatial_locations: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Mapping[str, Tensor | None]:
        """Return ``{"logits": B C, "loss": None}``.

        Args:
            input_ids: ``B L``, 0 for padding.
            attention_mask: ``B L``, 1 where there is a word.
            visual_features: ``B R D``.
            visual_attention_mask: ``B R``, 1 where there is a region.
            spatial_locations: ``B R 5``: ``x1 y1 x2 y2 area`` in parts of the image.
            labels: None from Chiasma, which computes the loss that the settings name (``train.loss``) itself.
            kwargs: Nothing from Chiasma.
        """

    def get_num_parameters(self) -> tuple[int, int]:
        """Return how many parameters there are, and how many of them learn."""
        numbers = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return sum(count for count, _ in numbers), sum(count for count, learns in numbers if learns)


M = TypeVar("M", bound=BaseMultimodalModel)


class RegisteredModel(WholeModel):
    """A registered model between our batches and our outputs.

    Args:
        model: The model.
        signature: What the data look like.
    """

    def __init__(self, model: BaseMultimodalModel, signature: Signature) -> None:
        super().__init__()
        self.model = model
        self.outputs = signature.target.outputs

    def forward(self, batch: Batch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return the model's logits; the ids and regions of absent parts are masked."""
        ids = batch.inputs["text"]
        assert isinstance(ids, Tensor)
        regions = regions_of(batch.inputs["image"], batch.present["image"])
        assert regions.boxes is not None
        said = self.model(
            input_ids=ids,
            attention_mask=(ids != 0).long(),
            visual_features=regions.x,
            visual_attention_mask=regions.mask.long(),
            spatial_locations=regions.boxes,
        )
        logits = said["logits"]
        if not isinstance(logits, Tensor) or logits.shape != (len(batch), self.outputs):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigError(
                f"{type(self.model).__qualname__}: logits must be a tensor of {(len(batch), self.outputs)}, but are "
                f"{shape}."
            )
        return Output(logits.float())


def register_model(name: str) -> Callable[[type[M]], type[M]]:
    """Return a decorator that makes a model known as ``model.whole.name=NAME``.

    An installed package may name the class in the entry point ``chiasma.model`` instead.

    Args:
        name: What settings call it.

    Raises:
        ConfigError: Another model has that name, or the class is no :class:`BaseMultimodalModel`.
    """

    def decorate(cls: Any) -> Any:
        if not issubclass(cls, BaseMultimodalModel):
            raise ConfigError(f"@register_model({name!r}): {cls.__qualname__} must inherit BaseMultimodalModel.")

        def build(self: WholeModelSettings, signature: Signature) -> WholeModel:
            options = {key: getattr(self, key) for key in type(self).model_fields}
            return RegisteredModel(cls(**options, **_told_by_data(cls, signature)), signature)

        spec = spec_of(cls, WholeModelSettings, given=OF_THE_DATA, namespace={"build": build})
        register(ModelPlugin.group, name, spec, of=cls)
        return cls

    return decorate


def regions_of(image: Tensor | Tokens, present: Tensor) -> Tokens:
    """Return regions with masks and boxes: ready-made ones, or the patches of a grid over the picture."""
    if isinstance(image, Tokens):
        boxes = image.boxes if image.boxes is not None else image.x.new_zeros(*image.x.shape[:2], 5)
        return Tokens(image.x, image.mask, boxes)
    height, width = image.shape[-2:]
    side = _patch(height, width)
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    padded = functional.pad(image, (0, columns * side - width, 0, rows * side - height))
    patches = functional.unfold(padded, side, stride=side).transpose(1, 2)
    mask = present[:, None].expand(-1, rows * columns)
    return Tokens(patches, mask, _boxes(rows, columns, image).expand(len(image), -1, -1))


def _patch(height: int, width: int) -> int:
    return math.ceil(max(height, width) / GRID)


def _boxes(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return ``1 R 5`` boxes of a grid, row by row."""
    y, x = (torch.arange(count, device=like.device, dtype=like.dtype) / count for count in (rows, columns))
    top, left = (each.reshape(-1) for each in torch.meshgrid(y, x, indexing="ij"))
    area = torch.full_like(top, 1 / (rows * columns))
    return torch.stack([left, top, left + 1 / columns, top + 1 / rows, area], dim=-1)[None]


def _told_by_data(cls: type, signature: Signature) -> dict[str, int]:
    """Return those constructor arguments that follow from the data.

    Raises:
        ConfigError: The data have no text or no image.
    """
    text, image = signature.inputs.get("text"), signature.inputs.get("image")
    if not isinstance(text, TextInput) or not isinstance(image, ImageInput | TokensInput):
        raise ConfigError(
            f"{cls.__qualname__} reads image and text, but the data have {' and '.join(signature.inputs)}."
        )
    if isinstance(image, TokensInput):
        width, count = image.dim, image.count
    else:
        side = _patch(image.height, image.width)
        width, count = image.channels * side**2, math.ceil(image.height / side) * math.ceil(image.width / side)
    known = dict(zip(OF_THE_DATA, (signature.target.outputs, text.vocabulary, width, count), strict=True))
    names, anything = accepted(cls)
    return {name: value for name, value in known.items() if anything or name in names}
