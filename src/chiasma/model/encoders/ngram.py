"""A hashed bag of n-grams: with a linear head, the linear floor of texts."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.encoders.encoder import Encoder, EncoderSettings

INITIAL_SCALE = 0.1


class NGramEncoder(Encoder):
    """The weighted sum of a learned vector for each n-gram of a text: linear in its term frequencies.

    Single tokens have a row each; longer n-grams are hashed (Weinberger et al. 2009, https://arxiv.org/abs/0902.2206,
    without the random signs). Each text's weights have unit length, as in TF-IDF; the inverse document frequency is
    left to the learned vectors.

    Args:
        dim: Width D of the token.
        spec: Orders, buckets and weighting.
        input: Vocabulary of the texts.
    """

    def __init__(self, dim: int, spec: "NGram", input: TextInput) -> None:
        super().__init__()
        self.orders = spec.orders
        self.weighting = spec.weighting
        self.vocabulary = input.vocabulary
        self.not_words = tuple(each for each in input.special if each != input.blank)
        self.buckets = spec.buckets
        rows = input.vocabulary + (spec.buckets if spec.orders > 1 else 0)
        self.table = nn.EmbeddingBag(rows, dim, mode="sum")
        nn.init.normal_(self.table.weight, std=INITIAL_SCALE)

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return one token a text; zeros where the text has no words."""
        assert isinstance(inputs, Tensor)
        orders = range(1, min(self.orders, inputs.shape[1]) + 1)
        rows, counts = (torch.cat(parts, dim=1) for parts in zip(*(self.grams(inputs, n) for n in orders), strict=True))
        shares = _shares(counts, self.weighting)
        return Tokens.single(self.table(rows, per_sample_weights=shares), (inputs != 0).any(1))

    def grams(self, ids: Int[Tensor, "B L"], order: int) -> tuple[Int[Tensor, "B n"], Float[Tensor, "B n"]]:
        """Return the table row of each n-gram of one order, and its count in its text; 0 where there is none."""
        windows = ids.unfold(1, order, 1)
        valid = (windows != 0).all(-1)
        if order == 1:
            rows = ids
            for each in self.not_words:
                valid = valid & (ids != each)
        else:
            rows = self.vocabulary + _hash(windows) % self.buckets
        same = (rows[:, :, None] == rows[:, None, :]) & valid[:, :, None] & valid[:, None, :]
        return rows, same.sum(2).to(self.table.weight.dtype)


class NGram(EncoderSettings):
    """A hashed bag of token n-grams: linear, one token.

    Attributes:
        orders: Longest n-gram; all shorter ones count too.
        buckets: Rows of the table that n-grams of two tokens and more are hashed into.
        weighting: What the count of an n-gram becomes (``log`` is 1 + log); then each text is scaled to unit length.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (TextInput,)

    kind: Literal["ngram"] = "ngram"
    orders: int = Field(default=2, ge=1, le=5)
    buckets: int = Field(default=4096, ge=1)
    weighting: Literal["count", "sqrt", "log", "binary"] = "log"

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the encoder of texts with the vocabulary in ``input``."""
        assert isinstance(input, TextInput)
        return NGramEncoder(dim, self, input)


def _hash(windows: Int[Tensor, "B n order"]) -> Int[Tensor, "B n"]:
    """Return 31 well mixed bits for each window, the same on every machine."""
    mixed = torch.zeros_like(windows[..., 0])
    for place in range(windows.shape[-1]):
        mixed = ((mixed + windows[..., place]) * 0x9E3779B1) & 0xFFFFFFFF
        mixed = mixed ^ (mixed >> 15)
    return mixed & 0x7FFFFFFF


def _shares(counts: Float[Tensor, "B n"], weighting: str) -> Float[Tensor, "B n"]:
    """Return what each occurrence adds: the n-gram's weight, split over its occurrences, at unit length a text."""
    some: Bool[Tensor, "B n"] = counts > 0
    often = counts.clamp(min=1.0)
    weights = {
        "count": lambda: often,
        "sqrt": often.sqrt,
        "log": lambda: 1.0 + often.log(),
        "binary": lambda: torch.ones_like(often),
    }[weighting]()
    shares = torch.where(some, weights / often, 0.0)
    # An n-gram of weight w has c occurrences of w / c, so its square is the sum of c * (w / c)^2 over them.
    squared_length = (shares.square() * counts).sum(1, keepdim=True)
    return shares * squared_length.clamp(min=1.0).rsqrt()
