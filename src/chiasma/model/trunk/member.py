"""What every member of a population is: tokens in, the change that it proposes for each of them out."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens


class Member(nn.Module, ABC):
    """Proposes a change for each token.

    Attributes:
        last: The layer that returns the change; with zero weights the member changes nothing.
    """

    last: nn.Linear | nn.Conv1d

    @abstractmethod
    def forward(self, tokens: Tokens) -> Float[Tensor, "B N D"]:
        """Return what is to be added to each token; meaningless where a token is masked.

        Args:
            tokens: With zeros wherever the mask is False.
        """

    @abstractmethod
    def inherit(self, parent: "Member") -> None:
        """Begin with the weights of a member of the same kind, so that what reaches the last layer is as near to what
        reaches the parent's as the shapes allow; the last layer itself is left as it is.

        Args:
            parent: Of the same class and the same width D.
        """

    @torch.no_grad()
    def silence(self) -> None:
        """Make the last layer zero, so that nothing changes until it has learned."""
        for parameter in self.last.parameters():
            parameter.zero_()


class MemberSettings(Spec):
    """What every member has.

    Attributes:
        mixes_tokens: Whether it looks at several tokens at once: over one token, attention and convolutions are linear
            maps.
        dropout: Probability of zeroing a hidden feature.
    """

    mixes_tokens: ClassVar[bool] = True
    kind: str
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @abstractmethod
    def build(self, dim: int) -> Member:
        """Return a member for tokens of width ``dim``."""
