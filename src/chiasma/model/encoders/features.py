"""An adapter on ready-made tokens."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens, cleared
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.blocks import Positions, perceptron
from chiasma.model.encoders.encoder import Encoder, EncoderSettings


class FeaturesEncoder(Encoder):
    """The trainable part on top of a frozen encoder whose tokens were made once and kept.

    Args:
        dim: Width D of the tokens.
        spec: The shape of the adapter.
        input: Count and width of the ready-made tokens, and whether they have boxes.
    """

    def __init__(self, dim: int, spec: "Features", input: TokensInput) -> None:
        super().__init__()
        # Without scale and shift, which the linear map that follows has too: so nothing flows back into it.
        self.norm = nn.LayerNorm(input.dim, elementwise_affine=False) if spec.norm else nn.Identity()
        self.dropout = nn.Dropout(spec.dropout)
        self.project = perceptron(input.dim, spec.hidden, dim)
        self.pool = spec.pool
        every = spec.pool == "none"
        self.boxes = nn.Linear(5, dim) if input.boxes and every else None
        self.positions = Positions(input.count, dim) if spec.positions and every else nn.Identity()

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return one token for each that came in, with its box if there is one; or one token in all if pooled."""
        assert isinstance(inputs, Tokens)
        # Kept tokens are float16; the norm would lose precision in it.
        x = self.norm(cleared(inputs.x, inputs.mask).float())
        if self.pool == "mean":
            pooled = Tokens(x, inputs.mask).mean()
            return Tokens.single(self.project(self.dropout(pooled)), inputs.mask.any(1))
        x = self.positions(self.project(self.dropout(x)))
        if self.boxes is not None:
            if inputs.boxes is None:
                raise ValueError("The signature says that the tokens have boxes, but these have none.")
            x = x + self.boxes(cleared(inputs.boxes, inputs.mask).float())
        return Tokens(cleared(x, inputs.mask), inputs.mask, inputs.boxes)


class Features(EncoderSettings):
    """A small adapter on tokens that a frozen encoder made.

    Attributes:
        norm: Normalise each token first; without it and without ``hidden`` the adapter is linear.
        hidden: Width of a hidden layer; None for a linear map.
        dropout: Probability of zeroing an input feature.
        positions: Add a learned vector for each place.
        pool: Return one token for each that came in, or one for the mean of those that count, which is many times
            cheaper and forgets places and boxes.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (TokensInput,)

    kind: Literal["features"] = "features"
    norm: bool = True
    hidden: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    positions: bool = False
    pool: Literal["none", "mean"] = "none"

    @model_validator(mode="after")
    def _positions_need_tokens(self) -> "Features":
        if self.positions and self.pool != "none":
            raise ValueError(f"positions need every token, but positions=true and pool={self.pool!r}")
        return self

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the adapter of tokens of the width in ``input``."""
        assert isinstance(input, TokensInput)
        return FeaturesEncoder(dim, self, input)
