"""A small BERT-style text encoder."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.blocks import Positions, Transformer, TransformerSpec, pooled
from chiasma.model.encoders.encoder import Encoder, EncoderSettings


class BertEncoder(Encoder):
    """Token embeddings with learned positions and a transformer (Devlin et al. 2019, https://arxiv.org/abs/1810.04805).

    Unlike the paper: pre-norm, trained from scratch on the task alone, no segment embeddings. The start-of-text token
    that the tokenizer puts first serves as the class token.

    Args:
        dim: Width D of the tokens.
        spec: The shape of the network.
        input: Vocabulary and length of the texts.
    """

    def __init__(self, dim: int, spec: "Bert", input: TextInput) -> None:
        super().__init__()
        self.words = nn.Embedding(input.vocabulary, dim)
        nn.init.normal_(self.words.weight, std=0.02)
        self.positions = Positions(input.length, dim)
        self.norm = nn.LayerNorm(dim)
        self.transformer = Transformer(dim, spec)
        self.pool = spec.pool

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return one token an id, or one in all if pooled."""
        assert isinstance(inputs, Tensor)
        x = self.norm(self.positions(self.words(inputs)))
        return pooled(self.transformer(Tokens(x, inputs != 0)), self.pool)


class Bert(TransformerSpec, EncoderSettings):
    """A BERT-style transformer from scratch.

    Attributes:
        pool: Return all tokens, only the first (the start-of-text token), or the mean.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (TextInput,)

    kind: Literal["bert"] = "bert"
    pool: Literal["none", "cls", "mean"] = "none"

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the encoder of texts of the length in ``input``."""
        assert isinstance(input, TextInput)
        return BertEncoder(dim, self, input)
