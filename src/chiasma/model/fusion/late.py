"""Late fusion: each modality is decided on its own, then the decisions are merged."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from chiasma.data.batch import Tokens
from chiasma.model.blocks import perceptron
from chiasma.model.fusion.fusion import Fusion, FusionSettings
from chiasma.model.fusion.pooled import either


class LateFusion(Fusion):
    """A tower for each modality; the towers' outputs are concatenated, added, or weighed.

    The tower of an absent modality counts as zeros, and all weight goes to the other one.

    Args:
        dim: Width D of both modalities and of the output.
        hidden: Width of the towers' hidden layer; None for linear towers.
        method: How the decisions are merged.
    """

    def __init__(self, dim: int, *, hidden: int | None, method: str) -> None:
        super().__init__()
        self.image = perceptron(dim, hidden, dim)
        self.text = perceptron(dim, hidden, dim)
        self.mix = nn.Linear(2 * dim, dim) if method == "concat" else None
        self.score = nn.Linear(dim, 1) if method == "attention" else None
        self.trust = nn.Parameter(torch.zeros(2, 1)) if method == "weighted" else None

    def forward(self, image: Tokens, text: Tokens) -> Tokens:
        """Return one token."""
        present = torch.stack([image.present(), text.present()], dim=1)
        decisions = torch.stack([self.image(image.mean()), self.text(text.mean())], dim=1)
        decisions = decisions.masked_fill(~present[..., None], 0.0)
        if self.mix is not None:
            merged = self.mix(decisions.flatten(1))
        elif self.score is not None:
            merged = (attention_weights(self.score(torch.tanh(decisions)), present) * decisions).sum(1)
        elif self.trust is not None:
            trust = self.trust.expand(len(decisions), -1, -1)
            merged = (attention_weights(trust, present) * decisions).sum(1)
        else:
            merged = decisions.sum(1)
        return Tokens.single(merged, either(image, text))


class Late(FusionSettings):
    """Each modality is decided on its own; the decisions are merged.

    Attributes:
        method: Concatenate and mix linearly, add, weigh each modality by a learned number (``weighted``), or weigh the
            two decisions of each example by attention.
        hidden: Width of the hidden layer of each modality's tower; None for a linear tower.
    """

    kind: Literal["late"] = "late"
    method: Literal["concat", "add", "weighted", "attention"] = "add"
    hidden: int | None = Field(default=None, ge=1)

    def build(self, dim: int) -> Fusion:
        """Return the fusion."""
        return LateFusion(dim, hidden=self.hidden, method=self.method)


def attention_weights(scores: Float[Tensor, "B N 1"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N 1"]:
    """Return the softmax of the scores that count; zeros for a row without any."""
    hidden = ~mask[..., None]
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(hidden, lowest), dim=1).masked_fill(hidden, 0.0)
