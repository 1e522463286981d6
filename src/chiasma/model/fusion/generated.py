"""A fusion that is source code, written by a language model or by hand to the same contract."""

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chiasma.data.batch import Tokens
from chiasma.model.blocks import at_least_one
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from chiasma.model.fusion.pooled import either
from chiasma.model.generated import GeneratedFaultError, GeneratedSource, class_of


class GeneratedFusion(Fusion):
    """Puts a module with the contract of generated source where a fusion goes.

    The contract: ``FusionModule(image_dim, text_dim, dim)``, whose ``forward(image_tokens "B N D", text_tokens "B M D",
    image_mask "B N", text_mask "B M")`` returns one vector ``B D`` or several ``B K D``. Masks are True where a token
    counts. It sees zeros where nothing counts, and in a row without an image or a text one zero token that counts, so
    that attention over it is finite.

    Args:
        dim: Width D of both modalities and of the output.
        source: What defines the class.

    Raises:
        UntrustedSourceError: Nobody has approved the source.
    """

    def __init__(self, dim: int, source: str) -> None:
        super().__init__()
        self.dim = dim
        self.module: nn.Module = class_of(source)(dim, dim, dim)

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return what the module returns, as tokens.

        Raises:
            GeneratedFaultError: It is not a plain tensor of the right shape.
        """
        seen, read = at_least_one(image), at_least_one(text)
        given = self.module(seen.x, read.x, seen.mask, read.mask)
        out = checked(given, rows=image.x.shape[0], dim=self.dim, kind=type(seen.x))
        present = either(image, text)
        if out.ndim == 2:
            return Tokens.single(out, present).only(present)
        return Tokens(out, present[:, None].expand(-1, out.shape[1])).only(present)


class Generated(FusionSettings, GeneratedSource):
    """Run source code that keeps the contract of a fusion; unapproved source runs in the jail only.

    Attributes:
        source: Python that defines ``FusionModule(image_dim, text_dim, dim)``. Its text is its identity.
    """

    every_token: ClassVar[bool] = True

    kind: Literal["generated"] = "generated"
    source: str = Field(min_length=1)

    def build(self, dim: int) -> Fusion:
        """Return the fusion.

        Raises:
            UntrustedSourceError: Nobody has approved the source.
        """
        return GeneratedFusion(dim, self.source)


def checked(
    out: Any, *, rows: int, dim: int, kind: type[Tensor] = Tensor
) -> Float[Tensor, "B D"] | Float[Tensor, "B K D"]:
    """Return what a generated module returned.

    Args:
        out: Whatever that is.
        rows: Of the batch.
        dim: Width D.
        kind: What it was given, and must return: a plain tensor, or one without contents where memory is estimated.

    Raises:
        GeneratedFaultError: It is anything but a plain tensor ``[rows, dim]`` or ``[rows, K, dim]``.
    """
    if type(out) is not kind:
        raise GeneratedFaultError(f"forward must return a plain tensor, but returned a {type(out).__name__[:60]}.")
    shape = tuple(out.shape)
    if not (out.ndim in (2, 3) and shape[0] == rows and shape[-1] == dim and out.numel()):
        raise GeneratedFaultError(
            f"forward must return [{rows}, {dim}] or [{rows}, K, {dim}], but returned {list(shape)}."
        )
    if not out.is_floating_point():
        raise GeneratedFaultError(f"forward must return floating-point numbers, but returned {out.dtype}.")
    return out
