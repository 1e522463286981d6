"""A small BERT-style text encoder."""

from typing import Literal

from chiasma.model.blocks import TransformerSpec


class Bert(TransformerSpec):
    """A BERT-style transformer from scratch.

    Attributes:
        pool: Return all tokens, only the first (the start-of-text token), or the mean.
    """

    kind: Literal["bert"] = "bert"
    pool: Literal["none", "cls", "mean"] = "none"
