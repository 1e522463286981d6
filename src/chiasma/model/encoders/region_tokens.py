"""Regions of an image with their boxes, as ViLBERT embeds them, for a fusion that has the layers."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens, cleared
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.encoders.convolution import Convolution
from chiasma.model.encoders.encoder import Encoder, EncoderSettings

EPSILON = 1e-12
"""Of the norm, as in BERT."""

BOX = 5
"""Numbers of a box: ``x1 y1 x2 y2 area``, in parts of the image."""


class RegionsEncoder(Encoder):
    """A linear map of each region and one of its box, added and normalised (Lu et al. 2019).

    The first token stands for the whole image: it was there before, or is the mean of the regions, with the box of
    the whole image, as in the published code. Of an image in pixels the regions are the cells of a grid that a
    convolutional network sees, whose last linear map is then that of the regions.

    Args:
        dim: Width D of the tokens.
        spec: What a region is.
        input: Count and width of the ready-made tokens and whether they have boxes, or the size of the images.
    """

    def __init__(self, dim: int, spec: "Regions", input: ImageInput | TokensInput) -> None:
        super().__init__()
        self.spec = spec
        self.cells = spec.cells.build(dim, input) if isinstance(input, ImageInput) else None
        self.project = nn.Linear(input.dim, dim) if isinstance(input, TokensInput) else nn.Identity()
        self.boxes = nn.Linear(BOX, dim) if spec.boxes != "none" else None
        self.grid: Tensor | None
        # Not saved: it follows from the sizes.
        self.register_buffer("grid", self._grid(input), persistent=False)
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return the token of the whole image, then one for each region that came in."""
        regions = self._regions(inputs)
        if self.spec.whole == "mean":
            regions = _with_whole(regions)
        x = self.project(regions.x)
        if self.boxes is not None:
            assert regions.boxes is not None
            x = x + self.boxes(regions.boxes)
        return Tokens(cleared(self.dropout(self.norm(x)), regions.mask), regions.mask, regions.boxes)

    def _regions(self, inputs: Tensor | Tokens) -> Tokens:
        """Return the regions that are read, with their boxes; zeros where they do not count."""
        given = self.cells(inputs) if self.cells is not None else inputs
        assert isinstance(given, Tokens)
        most = self.spec.most
        mask = given.mask[:, :most]
        x = cleared(given.x[:, :most], mask).float()
        if self.boxes is None:
            return Tokens(x, mask)
        if self.grid is not None:
            return Tokens(x, mask, self.grid[:most].to(x.dtype).expand(len(x), -1, -1))
        if given.boxes is None:
            raise ValueError("The signature says that the tokens have boxes, but these have none.")
        return Tokens(x, mask, cleared(given.boxes[:, :most], mask).float())

    def _grid(self, input: ImageInput | TokensInput) -> Float[Tensor, "N 5"] | None:
        """Return the boxes that regions have by their place; None where each comes with its own."""
        if self.spec.boxes == "none" or (isinstance(input, TokensInput) and self.spec.boxes == "given"):
            return None
        if isinstance(input, ImageInput):
            return grid_boxes(*self.spec.cells.places(input))
        first = self.spec.whole == "first"
        side = math.isqrt(input.count - first)
        cells = grid_boxes(side, side)
        return torch.cat([WHOLE, cells]) if first else cells


class Regions(EncoderSettings):
    """Regions of an image with their boxes: what ViLBERT reads.

    Of ready-made tokens each is a region. Of an image in pixels the regions are the cells of a grid.

    Attributes:
        boxes: Where regions lie: as the feature file says (``given``); as the cells of a square grid, row by row
            (``grid``); or nobody knows (``none``). The cells of an image in pixels always lie where they lie.
        whole: What stands for the whole image: the first token that is given, or the mean of all, put before them.
        most: Read so many of the tokens that are given at most, the first ones; None for all.
        cells: What sees an image in pixels.
        dropout: Probability of zeroing a feature.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (TokensInput, ImageInput)

    kind: Literal["regions"] = "regions"
    boxes: Literal["given", "grid", "none"] = "given"
    whole: Literal["first", "mean"] = "mean"
    most: int | None = Field(default=None, ge=1)
    cells: Convolution = Convolution()
    dropout: float = Field(default=0.1, ge=0, lt=1)

    def check(self, modality: str, input: ImageInput | TextInput | TokensInput) -> None:
        """Refuse tokens that do not say where they lie, or do not lie in a square grid.

        Raises:
            ConfigError: Says which setting is to be changed.
        """
        where = f"encoders.{modality}"
        if isinstance(input, ImageInput):
            if self.cells.pool != "none":
                raise ConfigError(
                    f"{where}: cells.pool must be none, but it is {self.cells.pool!r}: a cell is a region."
                )
            return
        assert isinstance(input, TokensInput)
        if self.boxes == "given" and not input.boxes:
            raise ConfigError(
                f"{where}: boxes=given, but the feature file has no boxes. Where its tokens are the cells of a square "
                f"grid: --set model.{where}.boxes=grid; where nobody knows: boxes=none."
            )
        first = self.whole == "first"
        if self.boxes == "grid" and math.isqrt(input.count - first) ** 2 != input.count - first:
            after = " after that of the whole image" if first else ""
            raise ConfigError(
                f"{where}: boxes=grid needs a square number of tokens{after}, but the feature file has {input.count}."
            )

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the encoder of regions as in ``input``."""
        assert isinstance(input, ImageInput | TokensInput)
        return RegionsEncoder(dim, self, input)


WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]])


def grid_boxes(rows: int, columns: int) -> Float[Tensor, "N 5"]:
    """Return the boxes of the cells of a grid, row by row."""
    top, left = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
    corners = [left, top, left + 1 / columns, top + 1 / rows, torch.full_like(top, 1 / (rows * columns))]
    return torch.stack([each.flatten() for each in corners], dim=1)


def _with_whole(regions: Tokens) -> Tokens:
    """Put the mean of the regions that count before them, with the box of the whole image."""
    x = torch.cat([regions.mean()[:, None], regions.x], dim=1)
    mask = torch.cat([regions.present()[:, None], regions.mask], dim=1)
    if regions.boxes is None:
        return Tokens(x, mask)
    whole = WHOLE.to(regions.boxes).expand(len(x), 1, BOX)
    return Tokens(x, mask, torch.cat([whole, regions.boxes], dim=1))
