"""DETR: decoder states of its queries as regions, from published weights whose backbone has timm's names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from chiasma.core.errors import ConfigError, CorruptFileError
from chiasma.core.files import read_json
from chiasma.core.rng import kept_torch_generator
from chiasma.core.spec import Spec
from chiasma.data.boxes import with_area
from chiasma.data.feature_store import Encoded
from chiasma.data.published import INSTALL, SMALL_FILES, content_sha256, published_folder
from chiasma.model.encoders.extractor import Extractor, ExtractorSettings, Identity, Place, Reads
from chiasma.model.encoders.extractors.frozen import check_kind, still
from chiasma.model.encoders.published_weights import fill_class, read_tensors, weight_files, weights_sha256

DEPTHS: Mapping[str, tuple[int, int, int, int]] = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
"""Blocks of the ResNets that timm's names stand for."""

_BACKBONE = re.compile(r"(model\.backbone\.(?:conv_encoder\.)?model\.)(.+)")
_NAMES = (
    (r"conv1\.(.+)", "embedder.embedder.convolution.{}"),
    (r"bn1\.(.+)", "embedder.embedder.normalization.{}"),
    (r"layer(\d)\.(\d+)\.conv(\d)\.(.+)", "encoder.stages.{-}.layers.{}.layer.{-}.convolution.{}"),
    (r"layer(\d)\.(\d+)\.bn(\d)\.(.+)", "encoder.stages.{-}.layers.{}.layer.{-}.normalization.{}"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.(.+)", "encoder.stages.{-}.layers.{}.shortcut.convolution.{}"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(.+)", "encoder.stages.{-}.layers.{}.shortcut.normalization.{}"),
)
"""timm's names, and those of transformers' own ResNet; ``{-}`` is a number counted from 0 instead of 1."""


def transformers_name(name: str) -> str:
    """Return the name that transformers' own ResNet has for a weight that has timm's name; others stay."""
    if (inside := _BACKBONE.fullmatch(name)) is None:
        return name
    prefix, rest = inside.groups()
    for pattern, wanted in _NAMES:
        if matched := re.fullmatch(pattern, rest):
            for part in matched.groups():
                place = wanted.index("{")
                counted = wanted.startswith("{-}", place)
                value = str(int(part) - 1) if counted else part
                wanted = wanted.replace("{-}" if counted else "{}", value, 1)
            return prefix + wanted
    return name


def read_detr(folder: Path, *, name: str) -> Any:
    """Return the configuration of a published DETR with a backbone that needs no timm.

    Raises:
        ConfigError: It is no DETR, or has a backbone that transformers cannot build alone.
    """
    try:
        from transformers import DetrConfig
    except ImportError:
        raise ConfigError(f"DETR needs transformers: {INSTALL}.") from None
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"{folder} holds no model: config.json is missing.")
    whole = _json(file)
    check_kind(str(whole.get("model_type")), ("detr",), name=name)
    own = whole.get("backbone_config")
    if not isinstance(own, dict) or own.get("model_type") != "resnet":
        named = str((own or {}).get("backbone") or whole.get("backbone"))
        if named not in DEPTHS or whole.get("dilation"):
            dilated = " with dilation" if whole.get("dilation") else ""
            raise ConfigError(
                f"--weights {name}: its backbone is {named}{dilated}, but only {' and '.join(DEPTHS)} are known here."
            )
        own = {"model_type": "resnet", "depths": DEPTHS[named], "out_features": ["stage4"]}
    left_out = ("backbone", "backbone_config", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone")
    kept = {key: value for key, value in whole.items() if key not in left_out}
    try:
        return DetrConfig.from_dict({**kept, "backbone_config": own})
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{file} cannot be used: {(str(error).splitlines() or [''])[0]}") from None


class Sizing(Spec):
    """How images are brought to a size, as the published image processor of DETR does.

    Attributes:
        shortest: Pixels of the shorter side.
        longest: Most pixels of the longer side.
        mean: What is subtracted from each channel, in parts of white.
        deviation: What it is then divided by.
    """

    shortest: int = 800
    longest: int = 1333
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @classmethod
    def read(cls, folder: Path) -> "Sizing":
        """Return the settings in a folder's image processor; the published ones where it has none."""
        file = folder / "preprocessor_config.json"
        values = _json(file) if file.is_file() else {}
        size = values.get("size", {})
        size = {"shortest_edge": size} if isinstance(size, int) else size
        found = {
            "shortest": size.get("shortest_edge"),
            "longest": size.get("longest_edge", values.get("max_size")),
            "mean": values.get("image_mean"),
            "deviation": values.get("image_std"),
        }
        return cls.from_dict({key: value for key, value in found.items() if value is not None}, where=str(file))

    def apply(self, image: Image.Image) -> Tensor:
        """Return what the network sees of an image, ``3 H W``."""
        short, long = min(image.size), max(image.size)
        # Rounded twice, as there: once to whole pixels, once for the longer side.
        exact = min(float(self.shortest), self.longest * short / long)
        side = round(exact) if exact < self.shortest else self.shortest
        other = int(exact * long / short)
        size = (side, other) if image.width <= image.height else (other, side)
        pixels = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BILINEAR))).permute(2, 0, 1).float()
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return (pixels / 255 - mean) / deviation


class DetrExtractor(Extractor):
    """The last decoder states of DETR's queries, and the boxes that are predicted from them.

    Carion et al. 2020 (https://arxiv.org/abs/2005.12872).

    Args:
        network: With its heads, on its device.
        sizing: How it reads images.
        regions: How many queries are kept, the most certain of an object first.
        weights: Hash of its weights.
        place: Where it computes.
    """

    def __init__(self, network: Any, sizing: Sizing, *, regions: int, weights: str, place: Place) -> None:
        self.network = network
        self.sizing = sizing
        self.regions = regions
        self.weights = weights
        self.place = place

    @property
    def identity(self) -> Identity:
        """Return the architecture, the weights and the sizes."""
        name = content_sha256([self.network.config.to_json_string(), self.regions, str(self.place.dtype)])
        return Identity(f"detr {name}", self.weights, self.sizing.to_json())

    def prepare(self, content: Image.Image | str) -> Any:
        """Return the image as the network reads it."""
        assert isinstance(content, Image.Image)
        return self.sizing.apply(content)

    def encode(self, prepared: list[Any]) -> Encoded:
        """Return a token for each query that is kept; only images of one size share a batch of the network."""
        tokens = np.zeros((len(prepared), self.regions, self.network.config.d_model), np.float32)
        boxes = np.zeros((len(prepared), self.regions, 5), np.float32)
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, pixels in enumerate(prepared):
            groups.setdefault(tuple(pixels.shape), []).append(place)
        for places in groups.values():
            images = torch.stack([prepared[place] for place in places]).to(self.place.device)
            with torch.inference_mode(), self.place.arithmetic():
                seen = self.network(pixel_values=images)
            # The last class is that there is nothing.
            certain = seen.logits.float().softmax(-1)[..., :-1].amax(-1)
            order = certain.argsort(dim=1, descending=True, stable=True)[:, : self.regions, None]
            states = seen.last_hidden_state.float()
            middles, sides = seen.pred_boxes.float().gather(1, order.expand(-1, -1, 4)).chunk(2, -1)
            corners = torch.cat([middles - sides / 2, middles + sides / 2], -1)
            tokens[places] = states.gather(1, order.expand(-1, -1, states.shape[-1])).cpu().numpy()
            boxes[places] = with_area(corners.cpu().numpy())
        return Encoded(tokens, boxes=boxes)


class DETR(ExtractorSettings):
    """The decoder states of DETR's queries with their boxes: 100 of width 256 with the published ResNet-50.

    Attributes:
        weights: A folder with ``config.json`` and the weights, or a name of the hub.
        revision: Branch, tag or commit on the hub.
        regions: How many queries are kept, those that are most certain of an object.
    """

    reads: ClassVar[Reads] = "image"
    batch_size: ClassVar[int] = 8

    kind: Literal["detr"] = "detr"
    weights: str = "facebook/detr-resnet-50"
    revision: str | None = None
    regions: int = Field(default=100, ge=1, le=300)

    def build(self, place: Place) -> Extractor:
        """Return the extractor.

        Raises:
            ConfigError: It cannot be had, is no DETR, or its weights do not fit its configuration.
        """
        folder = published_folder(self.weights, revision=self.revision, files=SMALL_FILES)
        config = read_detr(folder, name=self.weights)
        if self.regions > config.num_queries:
            raise ConfigError(f"{self.weights} has {config.num_queries} queries, but regions={self.regions}.")
        files = weight_files(self.weights, revision=self.revision)
        tensors = {transformers_name(key): value for file in files for key, value in read_tensors(file).items()}
        from transformers import DetrForObjectDetection

        with kept_torch_generator():
            network = DetrForObjectDetection(config)
        unused = fill_class(network, DetrForObjectDetection, config, tensors, name=self.weights)
        unused = [key for key in unused if not key.endswith("num_batches_tracked")]
        if unused:
            raise ConfigError(
                f"The weights of {self.weights} hold more than its config.json says: {', '.join(unused[:4])}."
            )
        weights = weights_sha256(files)
        still(network, place)
        return DetrExtractor(network, Sizing.read(folder), regions=self.regions, weights=weights, place=place)


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(read_json(file))
    except (CorruptFileError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
