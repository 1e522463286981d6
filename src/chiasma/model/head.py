"""What every head is: from the tokens to the output of one kind of task."""

from abc import ABC, abstractmethod

from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from chiasma.core.spec import Spec
from chiasma.data.batch import Output, TokenBatch, Tokens
from chiasma.data.signature import Target


class Head(nn.Module, ABC):
    """From fused tokens to the output."""

    @abstractmethod
    def forward(self, fused: Tokens, tokens: TokenBatch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return the output of each row.

        Args:
            fused: What the fusion returned.
            tokens: What the encoders returned, for heads that align or generate.
            targets: Token ids to predict, for heads that generate.
        """


def perceptron(dim: int, *, outputs: int, hidden: int | None, dropout: float) -> nn.Sequential:
    """Return a linear map, or a perceptron with one hidden layer; dropout before each map."""
    hidden_layer = [] if hidden is None else [nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(nn.Dropout(dropout), *hidden_layer, nn.Linear(hidden or dim, outputs))


class HeadSettings(Spec):
    """What every head has.

    Attributes:
        kind: The task, which must be the target's.
        hidden: Width of a hidden layer; None for a linear head.
        dropout: Probability of zeroing a feature before each linear map.
    """

    kind: str
    hidden: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def check(self, target: Target) -> None:
        """Refuse a target of another task.

        Raises:
            ValueError: The task is not the one this head is for.
        """
        if self.kind != target.task:
            raise ValueError(f"The head must be for the target's task {target.task!r}, but it is {self.kind!r}.")

    @abstractmethod
    def build(self, dim: int, target: Target) -> Head:
        """Return a head for a target over tokens of width ``dim``.

        Raises:
            ValueError: The target's task is not the one this head is for.
        """
