"""Fusions of one vector a modality: the mean of its tokens."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from chiasma.data.batch import Tokens
from chiasma.model.blocks import at_least_one, perceptron
from chiasma.model.fusion.fusion import Fusion, FusionSettings


class ConcatFusion(Fusion):
    """Put the two vectors side by side and map them back to one.

    Args:
        dim: Width D of both modalities and of the output.
        hidden: Width of a hidden layer; None for a linear map. An absent modality is zeros.
    """

    def __init__(self, dim: int, hidden: int | None) -> None:
        super().__init__()
        self.mix = perceptron(2 * dim, hidden, dim)

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return one token."""
        return Tokens.single(self.mix(torch.cat([image.mean(), text.mean()], dim=-1)), either(image, text))


class Concat(FusionSettings):
    """Put the two vectors side by side.

    Attributes:
        hidden: Width of a hidden layer; None for a linear map.
    """

    kind: Literal["concat"] = "concat"
    hidden: int | None = Field(default=None, ge=1)

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return ConcatFusion(dim, self.hidden)


class GatedFusion(Fusion):
    """Weigh each feature of the two modalities with one learned gate.

    Gated multimodal unit of Arevalo et al. 2017 (https://arxiv.org/abs/1702.01992) on masked token means; unlike the
    paper, without the tanh projection of each modality, and closed to a modality that is absent.

    Args:
        dim: Width D of both modalities and of the output.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, dim)

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return one token."""
        seen, read = image.mean(), text.mean()
        gate = torch.sigmoid(self.gate(torch.cat([seen, read], dim=-1)))
        gate = gate.masked_fill(~image.present()[:, None], 1.0).masked_fill(~text.present()[:, None], 0.0)
        return Tokens.single(gate * read + (1 - gate) * seen, either(image, text))


class Gated(FusionSettings):
    """Weigh each feature of the two modalities with one learned gate."""

    kind: Literal["gated"] = "gated"

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return GatedFusion(dim)


class MultiplicativeFusion(Fusion):
    """Multiply the two projected vectors feature by feature.

    The Hadamard product of Kim et al. 2017 (https://arxiv.org/abs/1610.04325); unlike the paper, on normalised means,
    without tanh, with the factors themselves added if asked. The factor of an absent modality is one.

    Args:
        dim: Width D of both modalities and of the output.
        width: Features of the product.
        sums: Add the two factors to their product.
    """

    def __init__(self, dim: int, width: int, *, sums: bool) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.text = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.mix = nn.Linear(width, dim)
        self.sums = sums

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return one token."""
        seen = neutral(self.image(image.mean()), image.present())
        read = neutral(self.text(text.mean()), text.present())
        product = seen * read
        return Tokens.single(self.mix(product + seen + read if self.sums else product), either(image, text))


class Multiplicative(FusionSettings):
    """Multiply the two projected vectors feature by feature.

    Attributes:
        width: Features of the product; None for dim.
        sums: Add the two factors to their product.
    """

    kind: Literal["multiplicative"] = "multiplicative"
    width: int | None = Field(default=None, ge=1)
    sums: bool = True

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return MultiplicativeFusion(dim, self.width or dim, sums=self.sums)


class BilinearFusion(Fusion):
    """A bilinear form of the two vectors for each feature, each of low rank.

    Factorised bilinear pooling of Yu et al. 2017 (https://arxiv.org/abs/1708.01471); unlike the paper, without
    dropout, and the signed square root is ``z / sqrt(|z| + 0.01)``, whose slope at zero is finite. The factor of an
    absent modality is one.

    Args:
        dim: Width D of both modalities and of the output.
        rank: Products that are summed into each feature.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.image = nn.Linear(dim, dim * rank)
        self.text = nn.Linear(dim, dim * rank)
        self.norm = nn.LayerNorm(dim)
        self.rank = rank

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return one token."""
        seen = neutral(self.image(image.mean()), image.present())
        read = neutral(self.text(text.mean()), text.present())
        products = (seen * read).unflatten(-1, (-1, self.rank)).sum(-1)
        return Tokens.single(self.norm(products * (products.abs() + 0.01).rsqrt()), either(image, text))


class Bilinear(FusionSettings):
    """Low-rank bilinear pooling.

    Attributes:
        rank: Products that are summed into each feature.
    """

    kind: Literal["bilinear"] = "bilinear"
    rank: int = Field(default=4, ge=1)

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return BilinearFusion(dim, self.rank)


class FiLMFusion(Fusion):
    """Let the text scale and shift the features of each image token, layer after layer.

    Perez et al. 2018 (https://arxiv.org/abs/1709.07871); unlike the paper, the layers map each token alone. Without a
    text the image passes unscaled; without an image the shifts alone pass.

    Args:
        dim: Width D of both modalities and of the output.
        depth: Modulated layers.
        pool: Return the mean of the modulated tokens, or all of them.
    """

    def __init__(self, dim: int, depth: int, *, pool: Literal["none", "mean"]) -> None:
        super().__init__()
        self.pool = pool
        self.modulation = nn.Linear(dim, depth * 2 * dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.maps = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return the modulated tokens, or their mean."""
        modulation = self.modulation(text.mean()).masked_fill(~text.present()[:, None], 0.0)
        seen = at_least_one(image)
        x = seen.x
        for norm, layer, part in zip(self.norms, self.maps, modulation.chunk(len(self.maps), dim=-1), strict=True):
            scale, shift = part[:, None].chunk(2, dim=-1)
            x = x + torch.relu(layer(norm(x)) * (1 + scale) + shift)
        modulated, there = Tokens(x, seen.mask), either(image, text)
        return modulated.only(there) if self.pool == "none" else Tokens.single(modulated.mean(), there)


class FiLM(FusionSettings):
    """Let the text scale and shift the features of each image token.

    Attributes:
        depth: Modulated layers.
        pool: Hand on every modulated image token, or their mean; a trunk can look at tokens only where there are
            several.
    """

    kind: Literal["film"] = "film"
    depth: int = Field(default=2, ge=1)
    pool: Literal["none", "mean"] = "mean"

    @property
    def every_token(self) -> bool:
        """Return whether single tokens of the image are wanted, because they go on as such."""
        return self.pool == "none"

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return FiLMFusion(dim, self.depth, pool=self.pool)


def either(image: Tokens, text: Tokens) -> Bool[Tensor, " B"]:
    """Return which rows have at least one of the two."""
    return image.present() | text.present()


def neutral(factor: Float[Tensor, "B D"], present: Bool[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """Return the factor with ones in absent rows, so that a product passes the other one."""
    return factor.masked_fill(~present[:, None], 1.0)
