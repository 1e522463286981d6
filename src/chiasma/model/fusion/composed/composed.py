"""A fusion that a tree describes: what a search composes, and what a config may spell out."""

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from chiasma.data.batch import Tokens
from chiasma.model.fusion.composed.compile import module_of
from chiasma.model.fusion.composed.formula import formula
from chiasma.model.fusion.composed.ops import OPS
from chiasma.model.fusion.composed.tree import FusionTree
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from chiasma.model.recompute import Passage


class ComposedFusion(Fusion):
    """Whatever a typed tree says; see :mod:`chiasma.model.fusion.composed.ops` for what it may say.

    Args:
        dim: Width D of both modalities and of the output.
        spec: The tree, and dropout.

    Raises:
        ValueError: A number of heads does not divide ``dim``.
    """

    def __init__(self, dim: int, spec: "Composed") -> None:
        super().__init__()
        self.tree = module_of(spec.tree, dim, dropout=spec.dropout)
        self.passage = Passage()

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return one token, or tokens of the image, of the text or of both."""
        return self.passage(self._joint, image, text)

    def _joint(self, image: Tokens, text: Tokens) -> Tokens:
        joint: tuple[Tensor, Tensor] = self.tree(image.x, text.x, image.mask, text.mask)
        return Tokens(*joint)


class Composed(FusionSettings):
    """Operators that are composed as a typed tree, found by a search or spelled out.

    Attributes:
        tree: What happens between image, text and the joint tokens; means side by side and a hidden layer unless given.
        dropout: Probability of zeroing a feature where tokens look, and in perceptrons; 0 in a tree without these.
    """

    kind: Literal["composed"] = "composed"
    tree: FusionTree = FusionTree()
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _drops_what_there_is(self) -> "Composed":
        # A validator may not return another value than itself, and equal fusions are to be equal values.
        if not self.drops:
            object.__setattr__(self, "dropout", 0.0)
        return self

    @property
    def drops(self) -> bool:
        """Return whether there is anything for dropout to act on."""
        return any(
            "{dropout}" in OPS[node.op].part and node.constants.get("hidden", 1) != 0 for node in self.tree.nodes
        )

    @property
    def every_token(self) -> bool:
        """Return whether it looks at single tokens."""
        return self.tree.every_token

    @property
    def words(self) -> str:
        """Return the formula."""
        return formula(self.tree)

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return ComposedFusion(dim, self)
