"""The kinds of members: a perceptron, a transformer with any attention, and residual convolutions over the tokens."""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chiasma.data.batch import Tokens
from chiasma.model.attention import AttentionSpec, DotProduct, MultiHeadAttention
from chiasma.model.inherit import begin_with, take_kernel, take_units
from chiasma.model.trunk.member import Member, MemberSettings


class PerceptronMember(Member):
    """A perceptron on each token by itself.

    Args:
        dim: Width D.
        hidden: Width of the hidden layer.
        dropout: Probability of zeroing a hidden feature.
    """

    def __init__(self, dim: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(hidden, dim)

    def forward(self, tokens: Tokens) -> Float[Tensor, "B N D"]:
        """Return the change of each token."""
        return self.last(self.dropout(nn.functional.gelu(self.first(self.norm(tokens.x)))))

    def inherit(self, parent: Member) -> None:
        """Take the parent's norm and its hidden units; a wider child has all of them, a narrower one those that its
        last layer listened to most. Each unit that is taken computes exactly what it did."""
        assert isinstance(parent, PerceptronMember)
        begin_with(self.norm, parent.norm.state_dict())
        take_units(self.first, parent.first, counts=parent.last.weight.norm(dim=0))


class TransformerMember(Member):
    """Self-attention and a perceptron side by side, joined by one last layer.

    The parallel block of Wang and Komatsuzaki 2021 and Dehghani et al. 2023 (https://arxiv.org/abs/2302.05442): unlike
    the usual block it has a single last layer, which must be zero for a newcomer whatever the attention is.

    Args:
        dim: Width D.
        heads: Must divide ``dim``.
        hidden: Width of the perceptron's hidden layer.
        attention: Names the kernel and the projections.
        dropout: Probability of zeroing a feature before the last layer.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, attention: AttentionSpec, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads=heads, attention=attention)
        self.first = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(dim + hidden, dim)

    def forward(self, tokens: Tokens) -> Float[Tensor, "B N D"]:
        """Return the change of each token."""
        x = self.norm(tokens.x)
        seen = Tokens(x, tokens.mask)
        both = torch.cat([self.attention(seen, seen), nn.functional.gelu(self.first(x))], dim=-1)
        return self.last(self.dropout(both))

    def inherit(self, parent: Member) -> None:
        """Take the parent's norm, its projections and its hidden units, the latter as a perceptron does.

        With as many heads and the same attention, attention computes exactly what it did. With another number of heads
        the projections are the same, but other features are compared with each other.
        """
        assert isinstance(parent, TransformerMember)
        begin_with(self.norm, parent.norm.state_dict())
        begin_with(self.attention, parent.attention.state_dict())
        listened = parent.last.weight[:, -len(parent.first.weight) :]
        take_units(self.first, parent.first, counts=listened.norm(dim=0))


class ConvolutionMember(Member):
    """Convolutions over neighbouring tokens, each added to what came in, and one last convolution.

    Pre-activation residual blocks (He et al. 2016, https://arxiv.org/abs/1603.05027) in one dimension, with layer
    norms.

    Args:
        dim: Width D.
        depth: Convolutions before the last one.
        kernel: Tokens that a convolution sees; odd.
        dropout: Probability of zeroing a feature before a convolution.
    """

    def __init__(self, dim: int, *, depth: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth + 1))
        self.inner = nn.ModuleList(nn.Conv1d(dim, dim, kernel, padding=kernel // 2) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)

    def forward(self, tokens: Tokens) -> Float[Tensor, "B N D"]:
        """Return the change of each token."""
        x = tokens.x
        for norm, layer in zip(self.norms, self.inner, strict=False):
            x = x + self._over_tokens(layer, norm(x), tokens)
        return self._over_tokens(self.last, self.norms[-1](x), tokens)

    def inherit(self, parent: Member) -> None:
        """Take the parent's convolutions in their order, and the norm before its last layer.

        A deeper child's further convolutions say nothing yet, and a wider kernel's outer places see nothing yet, so
        that both compute exactly what the parent does. A shallower child has the first convolutions only, a narrower
        kernel its centre.
        """
        assert isinstance(parent, ConvolutionMember)
        begin_with(self.norms[-1], parent.norms[-1].state_dict())
        for place, layer in enumerate(self.inner):
            assert isinstance(layer, nn.Conv1d)
            if place < len(parent.inner):
                given = parent.inner[place]
                assert isinstance(given, nn.Conv1d)
                begin_with(self.norms[place], parent.norms[place].state_dict())
                take_kernel(layer, given)
            else:
                nn.init.zeros_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def _over_tokens(self, layer: nn.Module, x: Float[Tensor, "B N D"], tokens: Tokens) -> Float[Tensor, "B N D"]:
        # Padding must stay zero before each convolution, or a token would see what its neighbour's bias made of it.
        visible = self.dropout(nn.functional.gelu(x)).masked_fill(~tokens.mask[..., None], 0.0)
        return layer(visible.transpose(1, 2)).transpose(1, 2)


class PerceptronSpec(MemberSettings):
    """A perceptron on each token by itself.

    Attributes:
        expansion: Width of the hidden layer in multiples of dim.
        dropout: Probability of zeroing a hidden feature.
    """

    mixes_tokens: ClassVar[bool] = False
    kind: Literal["perceptron"] = "perceptron"
    expansion: int = Field(default=2, ge=1)

    def build(self, dim: int) -> Member:
        """Return the member."""
        return PerceptronMember(dim, hidden=self.expansion * dim, dropout=self.dropout)


class TransformerMemberSpec(MemberSettings):
    """Self-attention, of any mechanism, beside a perceptron.

    Attributes:
        heads: Attention heads; must divide the model's dim.
        expansion: Width of the perceptron's hidden layer in multiples of dim.
        attention: The attention inside; a discovered one too.
        dropout: Probability of zeroing a hidden feature.
    """

    kind: Literal["transformer"] = "transformer"
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=2, ge=1)
    attention: AttentionSpec = DotProduct()

    def build(self, dim: int) -> Member:
        """Return the member.

        Raises:
            ValueError: ``heads`` does not divide ``dim``.
        """
        return TransformerMember(
            dim, heads=self.heads, hidden=self.expansion * dim, attention=self.attention, dropout=self.dropout
        )


class ConvolutionMemberSpec(MemberSettings):
    """Residual convolutions over neighbouring tokens.

    Attributes:
        depth: Convolutions before the last one.
        kernel: Tokens that a convolution sees; odd.
        dropout: Probability of zeroing a feature before a convolution.
    """

    kind: Literal["residual_convolution"] = "residual_convolution"
    depth: int = Field(default=1, ge=1)
    kernel: Literal[1, 3, 5, 7] = 3

    def build(self, dim: int) -> Member:
        """Return the member."""
        return ConvolutionMember(dim, depth=self.depth, kernel=self.kernel, dropout=self.dropout)


MemberSpec = Annotated[
    PerceptronSpec | TransformerMemberSpec | ConvolutionMemberSpec,
    Field(discriminator="kind"),
]
