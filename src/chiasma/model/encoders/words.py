"""Words as BERT embeds them, for a fusion that has the layers."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.encoders.encoder import Encoder, EncoderSettings

EPSILON = 1e-12
"""Of the norm, as in BERT."""


class WordsEncoder(Encoder):
    """The sum of what a word, its place and its segment mean, normalised (Devlin et al. 2019).

    Args:
        dim: Width D of the tokens.
        spec: The sizes of the tables.
        input: Vocabulary and length of the texts.
    """

    def __init__(self, dim: int, spec: "Words", input: TextInput) -> None:
        super().__init__()
        self.words = nn.Embedding(input.vocabulary, dim)
        self.positions = nn.Embedding(spec.positions or input.length, dim)
        self.segments = nn.Embedding(spec.segments, dim)
        for table in (self.words, self.positions, self.segments):
            nn.init.normal_(table.weight, std=0.02)
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return one token an id."""
        assert isinstance(inputs, Tensor)
        places = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.words(inputs) + self.positions(places) + self.segments(torch.zeros_like(places))
        return Tokens(self.dropout(self.norm(x)), inputs != 0)


class Words(EncoderSettings):
    """Embedded words with their places, without any layer: what a fusion with layers of its own reads.

    Attributes:
        positions: Places that have a vector; None for as many as texts have. Published tables have 512.
        segments: Segments that have a vector; all texts are the first one. Published tables have 2.
        dropout: Probability of zeroing a feature.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (TextInput,)

    kind: Literal["words"] = "words"
    positions: int | None = Field(default=None, ge=1)
    segments: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    def check(self, modality: str, input: ImageInput | TextInput | TokensInput) -> None:
        """Refuse texts that are longer than there are places.

        Raises:
            ConfigError: Says which setting is to be changed.
        """
        if isinstance(input, TextInput) and self.positions is not None and input.length > self.positions:
            raise ConfigError(
                f"encoders.{modality}: positions={self.positions}, but the texts of the data have {input.length} ids: "
                f"data.text_length={self.positions}."
            )

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the encoder of texts of the length in ``input``."""
        assert isinstance(input, TextInput)
        return WordsEncoder(dim, self, input)
