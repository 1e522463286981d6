"""Pre-norm transformer blocks."""

from pydantic import Field

from chiasma.core.spec import Spec
from chiasma.model.attention import AttentionSpec, DotProduct


class TransformerSpec(Spec):
    """What every stack of transformer blocks has.

    Attributes:
        depth: Blocks.
        heads: Attention heads; must divide the model's dim.
        expansion: Width of the hidden layer of each block, in multiples of dim.
        dropout: Probability of zeroing a feature of what a block adds.
        attention: The attention inside.
    """

    depth: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    expansion: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    attention: AttentionSpec = DotProduct()
