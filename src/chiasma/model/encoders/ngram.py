"""A hashed bag of n-grams."""

from typing import Literal

from pydantic import Field

from chiasma.core.spec import Spec


class NGram(Spec):
    """A hashed bag of token n-grams: linear, one token.

    Attributes:
        orders: Longest n-gram; all shorter ones count too.
        buckets: Rows of the table that n-grams of two tokens and more are hashed into.
        weighting: How often an n-gram occurs becomes this; then each text is scaled to unit length.
    """

    kind: Literal["ngram"] = "ngram"
    orders: int = Field(2, ge=1, le=5)
    buckets: int = Field(4096, ge=1)
    weighting: Literal["count", "sqrt", "log", "binary"] = "log"
