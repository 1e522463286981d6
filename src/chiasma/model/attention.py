"""Multi-head attention around any kernel: the kernel mixes, the frame projects, splits heads and obeys the mask."""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.kernel import AttentionKernel, AttentionSettings, Projections
from chiasma.model.plugins import Plugin


class DotProductKernel(AttentionKernel):
    """Softmax of scaled dot products, times the values (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

    def forward(
        self,
        q: Float[Tensor, "B H Q D"],
        k: Float[Tensor, "B H K D"],
        v: Float[Tensor, "B H K D"],
        mask: Bool[Tensor, "B 1 #Q K"],
    ) -> Float[Tensor, "B H Q D"]:
        """Return the weighted values; a query that sees no key gets zeros."""
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class DotProduct(AttentionSettings):
    """Scaled dot-product attention, the usual one."""

    kind: Literal["dot_product"] = "dot_product"

    def build(self, head_dim: int) -> AttentionKernel:
        """Return the kernel; it has no parameters."""
        return DotProductKernel()


class MeanKernel(AttentionKernel):
    """The mean of the values that are visible, whatever is asked."""

    def forward(
        self,
        q: Float[Tensor, "B H Q D"],
        k: Float[Tensor, "B H K D"],
        v: Float[Tensor, "B H K D"],
        mask: Bool[Tensor, "B 1 #Q K"],
    ) -> Float[Tensor, "B H Q D"]:
        """Return the same vector for every query that sees the same keys."""
        weights = mask / mask.sum(-1, keepdim=True).clamp(min=1)
        return (weights.to(v.dtype) @ v).expand_as(q)


class Mean(AttentionSettings):
    """The mean of the values: what is left of attention when it does not look.

    A task on which this is as good as attention says nothing about attention. The projections of queries and keys are
    off, since nothing is asked.
    """

    kind: Literal["mean"] = "mean"

    @model_validator(mode="after")
    def _asks_nothing(self) -> "Mean":
        # A validator may not return another value than itself, and the one without useless weights is wanted.
        object.__setattr__(
            self, "projections", Projections(q=False, k=False, v=self.projections.v, o=self.projections.o)
        )
        return self

    def build(self, head_dim: int) -> AttentionKernel:
        """Return the kernel; it has no parameters."""
        return MeanKernel()


class AttentionPlugin(Plugin):
    """Attention of a third party."""

    group: ClassVar[str] = "chiasma.attention"
    settings: ClassVar[type[Spec]] = AttentionSettings


AttentionSpec = Annotated[DotProduct | Mean | GraphAttention | AttentionPlugin, Field(discriminator="kind")]


class MultiHeadAttention(nn.Module):
    """Queries of one sequence look at the tokens of another, or of the same, in several heads.

    The mask is obeyed here, whatever the kernel does: masked tokens are zeroed before they are projected, a row
    without any key shows the kernel one zero token and gets zeros.

    Args:
        dim: Width D of queries and the result.
        heads: Must divide ``width``.
        attention: Names the kernel and the projections.
        dropout: Probability of zeroing a feature of the result.
        keys_dim: Width of the keys' tokens; None for ``dim``.
        width: Width of all heads together, in which queries meet keys; None for ``dim``.

    Raises:
        ValueError: ``heads`` does not divide ``width``, or a projection that is not learned would change the width.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        attention: AttentionSettings | AttentionPlugin,
        dropout: float = 0.0,
        keys_dim: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        keys_dim, width = keys_dim or dim, width or dim
        if width % heads:
            raise ValueError(f"dim must be divisible by heads, but dim={width} and heads={heads}.")
        settings = resolve_attention(attention)
        learned = settings.projections
        self.heads = heads
        self.kernel = settings.build(width // heads)
        self.q = _projection("q", dim, width, learned.q)
        self.k = _projection("k", keys_dim, width, learned.k)
        self.v = _projection("v", keys_dim, width, learned.v)
        self.o = _projection("o", width, dim, learned.o)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tokens, keys: Tokens) -> Float[Tensor, "B Q D"]:
        """Return one vector a query, finite but meaningless where the query is masked."""
        seen = zero_padding(keys)
        asking = seen if queries is keys else zero_padding(queries)
        q, k, v = self._split(self.q(asking)), self._split(self.k(seen)), self._split(self.v(seen))
        some = keys.present()
        first = torch.arange(keys.mask.shape[1], device=keys.mask.device) == 0
        visible = (keys.mask | (first & ~some[:, None]))[:, None, None, :]
        if self.kernel.mixes_queries:
            visible = visible & queries.mask[:, None, :, None]
        mixed = self.kernel(q, k, v, visible)
        mixed = mixed.masked_fill(~some[:, None, None, None], 0.0).transpose(1, 2).flatten(2)
        return self.dropout(self.o(mixed))

    def _split(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B H N d"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _projection(name: str, inputs: int, outputs: int, learned: bool) -> nn.Module:
    if learned:
        return nn.Linear(inputs, outputs)
    if inputs != outputs:
        raise ValueError(
            f"projections.{name} must be learned where widths differ, but it leads from {inputs} to {outputs}."
        )
    return nn.Identity()


def resolve_attention(spec: AttentionSettings | AttentionPlugin) -> AttentionSettings:
    """Return the settings that a spec stands for: a plugin's own, or the spec itself."""
    settings = spec.resolve() if isinstance(spec, AttentionPlugin) else spec
    assert isinstance(settings, AttentionSettings)
    return settings


def zero_padding(tokens: Tokens) -> Float[Tensor, "B N D"]:
    """Return the vectors with zeros where they do not count."""
    return tokens.x.masked_fill(~tokens.mask[..., None], 0.0)


def require_crossable(attention: AttentionSettings | AttentionPlugin) -> None:
    """Refuse an attention that only a sequence looking at itself can use.

    Raises:
        ValueError: It feeds keys where queries go, or the reverse.
    """
    if resolve_attention(attention).self_only:
        raise ValueError(
            "this attention feeds keys where queries go, so only a sequence that looks at itself can use it, "
            "but here one modality looks at another"
        )
