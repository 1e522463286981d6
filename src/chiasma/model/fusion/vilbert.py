"""ViLBERT: two streams of transformer layers that look at each other again and again."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.published import Published
from chiasma.model.attention import AttentionSpec, DotProduct, MultiHeadAttention, require_crossable, zero_padding
from chiasma.model.blocks import perceptron
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from chiasma.model.fusion.pooled import either, neutral
from chiasma.model.recompute import Passage

EPSILON = 1e-12
"""Of every norm, as in BERT."""


class StreamLayer(nn.Module):
    """One layer of BERT: tokens look at themselves, then pass a perceptron, each normalised afterwards.

    Args:
        dim: Width of the stream.
        stream: Heads and expansion.
        spec: Dropout and attention.
    """

    def __init__(self, dim: int, stream: "Stream", spec: "ViLBERT") -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads=stream.heads, attention=spec.attention, dropout=spec.dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.after = Perceptron(dim, stream.expansion * dim, dropout=spec.dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        """Return the tokens, changed by what they saw in themselves."""
        x = self.attention_norm(tokens.x + self.attention(tokens, tokens))
        return Tokens(self.after(x), tokens.mask)


class Perceptron(nn.Module):
    """A two-layer perceptron of each token, added to it and normalised."""

    def __init__(self, dim: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.layers = perceptron(dim, hidden, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, eps=EPSILON)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Return tokens of the same width."""
        return self.norm(x + self.dropout(self.layers(x)))


class CoAttentionLayer(nn.Module):
    """Regions look at words while words look at regions; then each passes a perceptron of its own.

    Args:
        dim: Width in which both meet.
        widths: Of the two streams.
        spec: Heads, expansions, dropout and attention.
    """

    def __init__(self, dim: int, widths: Mapping[str, int], spec: "ViLBERT") -> None:
        super().__init__()
        image, text = widths["image"], widths["text"]

        def looking(asking: int, seen: int) -> MultiHeadAttention:
            return MultiHeadAttention(
                asking, heads=spec.heads, attention=spec.attention, dropout=spec.dropout, keys_dim=seen, width=dim
            )

        self.image_asks, self.text_asks = looking(image, text), looking(text, image)
        self.image_norm = nn.LayerNorm(image, eps=EPSILON)
        self.text_norm = nn.LayerNorm(text, eps=EPSILON)
        self.image_after = Perceptron(image, spec.image.expansion * image, dropout=spec.dropout)
        self.text_after = Perceptron(text, spec.text.expansion * text, dropout=spec.dropout)

    def forward(self, image: Tokens, text: Tokens) -> tuple[Tokens, Tokens]:
        """Return both, each changed by what it saw in the other as that was before."""
        seen = self.image_norm(image.x + self.image_asks(image, text))
        read = self.text_norm(text.x + self.text_asks(text, image))
        return Tokens(self.image_after(seen), image.mask), Tokens(self.text_after(read), text.mask)


class ViLBERTFusion(Fusion):
    """Two streams of BERT layers, joined by co-attention, and the product of what each says at its first token.

    Lu et al. 2019 (https://arxiv.org/abs/1908.02265), computed as their published code does. Unlike there, dropout is
    on what attention returns rather than on its weights, so that every kernel can be used; where all of a modality is
    masked, co-attention to it gives nothing rather than the mean of its padding, and its factor is left out.

    Args:
        dim: Width in which the streams meet, and of the output.
        spec: Both streams, and where they are joined.
    """

    def __init__(self, dim: int, spec: "ViLBERT") -> None:
        super().__init__()
        widths = spec.widths(dim)
        self.spec = spec
        self.text_layers = nn.ModuleList(StreamLayer(widths["text"], spec.text, spec) for _ in range(spec.text.depth))
        self.image_layers = nn.ModuleList(
            StreamLayer(widths["image"], spec.image, spec) for _ in range(spec.image.depth)
        )
        self.joins = nn.ModuleList(CoAttentionLayer(dim, widths, spec) for _ in spec.text_joins)
        self.text_pooler = nn.Linear(widths["text"], dim)
        self.image_pooler = nn.Linear(widths["image"], dim)
        self.activation = nn.ReLU() if spec.pooler == "relu" else nn.Tanh()
        self.dropout = nn.Dropout(spec.dropout)
        self.passage = Passage()

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return one token."""
        image, text = self.streams(image, text)
        seen = self.activation(self.image_pooler(self._image_vector(image)))
        read = self.activation(self.text_pooler(_first(text)))
        if self.spec.combine == "product":
            joint = neutral(seen, image.present()) * neutral(read, text.present())
        else:
            joint = _there(seen, image) + _there(read, text)
        return Tokens.single(self.dropout(joint), either(image, text))

    def streams(self, image: Tokens, text: Tokens) -> tuple[Tokens, Tokens]:
        """Return the tokens of both streams after all layers; finite but meaningless where they are masked."""
        # What lies in the padding must not reach a norm's weights through the gradient, not even as NaN.
        image = Tokens(zero_padding(image), image.mask)
        text = Tokens(zero_padding(text), text.mask)
        seen, read = 0, 0
        joins = zip(self.spec.image_joins, self.spec.text_joins, self.joins, strict=True)
        for image_join, text_join, join in joins:
            text = self._through(self.text_layers, text, read, text_join)
            image = self._through(self.image_layers, image, seen, image_join)
            image, text = self.passage(join, image, text)
            seen, read = image_join, text_join
        text = self._through(self.text_layers, text, read, self.spec.text.depth)
        return self._through(self.image_layers, image, seen, self.spec.image.depth), text

    def _through(self, layers: nn.ModuleList, tokens: Tokens, first: int, last: int) -> Tokens:
        for layer in layers[first:last]:
            tokens = self.passage(layer, tokens)
        return tokens

    def _image_vector(self, image: Tokens) -> Float[Tensor, "B D"]:
        return _first(image) if self.spec.image_pool == "first" else image.mean()


class Stream(Spec):
    """One of the two stacks of transformer layers.

    Attributes:
        depth: Layers.
        heads: Attention heads; must divide the width.
        expansion: Width of the hidden layer of each perceptron, in multiples of the width; of those after co-attention
            too.
        dim: Width of its tokens; None for the model's.
    """

    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=2, ge=1)
    dim: int | None = Field(default=None, ge=1)


class ViLBERT(FusionSettings):
    """ViLBERT: a stream of words and one of regions, whose layers look at each other; one token comes out.

    Its image encoder is usually ``regions``, its text encoder ``words``; the model's ``dim`` is the width in which the
    streams meet.

    Attributes:
        text: The stream of words.
        image: The stream of regions.
        heads: Heads of co-attention; must divide the model's dim.
        text_joins: Before which layer of the text each co-attention stands; the depth is after the last.
        image_joins: Before which layer of the image, as many as for the text.
        dropout: Probability of zeroing a feature of what a layer adds, and of the output.
        attention: The attention inside, everywhere.
        pooler: What the vector of each stream passes after its linear map; ReLU in the published code.
        combine: Multiply the two vectors, or add them.
        image_pool: The image's vector is that of its first token, which stands for the whole image, or the mean.
        weights: Published weights to begin with: a folder, a file, or a name of the hub; None begins from scratch. They
            are those of the text encoder, the image encoder and the fusion.
        fresh_image: Where images are not published region features, begin from scratch with how they become tokens,
            and with that alone. Otherwise such images are refused.
    """

    every_token: ClassVar[bool] = True

    kind: Literal["vilbert"] = "vilbert"
    text: Stream = Stream(depth=2)
    image: Stream = Stream(depth=1)
    heads: int = Field(default=4, ge=1)
    text_joins: tuple[int, ...] = Field(default=(1,), min_length=1)
    image_joins: tuple[int, ...] = Field(default=(0,), min_length=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention: AttentionSpec = DotProduct()
    pooler: Literal["relu", "tanh"] = "tanh"
    combine: Literal["product", "sum"] = "product"
    image_pool: Literal["first", "mean"] = "first"
    weights: Published | None = None
    fresh_image: bool = False

    def widths(self, dim: int) -> Mapping[str, int]:
        """Return the width of the tokens of each stream."""
        return {"image": self.image.dim or dim, "text": self.text.dim or dim}

    def check(self, dim: int) -> None:
        """Refuse a width of the model that heads do not divide.

        Raises:
            ValueError: Says which setting is to be changed.
        """
        widths = self.widths(dim)
        for path, width, heads in (
            ("", dim, self.heads),
            ("image.", widths["image"], self.image.heads),
            ("text.", widths["text"], self.text.heads),
        ):
            if width % heads:
                raise ValueError(
                    f"{path}dim must be divisible by fusion.{path}heads, but {path}dim={width} and heads={heads}"
                )

    def build(self, dim: int) -> Fusion:
        """Return the fusion with fresh weights."""
        return ViLBERTFusion(dim, self)

    @field_validator("attention")
    @classmethod
    def _looks_at_another(cls, value: AttentionSpec) -> AttentionSpec:
        require_crossable(value)
        return value

    @model_validator(mode="after")
    def _joins_in_order(self) -> "ViLBERT":
        if len(self.text_joins) != len(self.image_joins):
            raise ValueError(
                "text_joins and image_joins must be as many, but "
                f"text_joins={self.text_joins} and image_joins={self.image_joins}"
            )
        for name, joins, depth in (
            ("text", self.text_joins, self.text.depth),
            ("image", self.image_joins, self.image.depth),
        ):
            if list(joins) != sorted(joins) or joins[0] < 0 or joins[-1] > depth:
                raise ValueError(f"{name}_joins must rise from 0 to {name}.depth={depth}, but are {joins}")
        return self

    @model_validator(mode="after")
    def _something_to_be_fresh_of(self) -> "ViLBERT":
        if self.fresh_image and self.weights is None:
            raise ValueError("fresh_image needs weights, but fresh_image=true and weights=null")
        return self


def _first(tokens: Tokens) -> Float[Tensor, "B D"]:
    """Return the first token that counts; in a row without any, the first."""
    rows = torch.arange(len(tokens.mask), device=tokens.mask.device)
    return tokens.x[rows, tokens.mask.int().argmax(1)]


def _there(vector: Float[Tensor, "B D"], tokens: Tokens) -> Float[Tensor, "B D"]:
    return vector.masked_fill(~tokens.present()[:, None], 0.0)
