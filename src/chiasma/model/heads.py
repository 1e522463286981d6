"""Heads: from the fused tokens to the output, one for each task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
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


class PerceptronHead(Head):
    """The mean of the fused tokens, then a linear map or a perceptron with one hidden layer.

    Args:
        dim: Width D of the tokens.
        outputs: Scores C to return, in float32 whatever the precision of the rest.
        hidden: Width of the hidden layer; None for a linear map.
        dropout: Probability of zeroing a feature before each linear map.
    """

    def __init__(self, dim: int, *, outputs: int, hidden: int | None, dropout: float) -> None:
        super().__init__()
        hidden_layer = [] if hidden is None else [nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(nn.Dropout(dropout), *hidden_layer, nn.Linear(hidden or dim, outputs))

    def forward(self, fused: Tokens, tokens: TokenBatch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return the scores; ``tokens`` and ``targets`` are for other heads."""
        logits = self.layers(fused.mean())
        return Output(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits)


class SeveralHeads(Head):
    """One head a task on the same fused tokens, their scores side by side.

    The losses are weighed by a learned log variance a task (Kendall et al. 2018, https://arxiv.org/abs/1705.07115),
    which lives here, so that it is optimised, saved and resumed with the weights; without weight decay.

    Args:
        heads: In the order of the tasks.
        weighed: Whether there are log variances; otherwise all losses count alike.
    """

    def __init__(self, heads: Sequence[Head], *, weighed: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.log_variances = nn.Parameter(torch.zeros(len(heads))) if weighed else None

    def forward(self, fused: Tokens, tokens: TokenBatch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return all tasks' scores; ``tokens`` and ``targets`` are for other heads."""
        scores = [head(fused, tokens).logits for head in self.heads]
        return Output(torch.cat(scores, dim=1), log_variances=self.log_variances)


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

    def build(self, dim: int, target: Target) -> Head:
        """Return a head with one output for each label of the target.

        Raises:
            ValueError: The target's task is not the one this head is for.
        """
        self.check(target)
        return PerceptronHead(dim, outputs=target.outputs, hidden=self.hidden, dropout=self.dropout)


class Classification(HeadSettings):
    """One class out of C: scores before the softmax."""

    kind: Literal["classification"] = "classification"


class Multilabel(HeadSettings):
    """Any subset of C labels: scores before the sigmoid."""

    kind: Literal["multilabel"] = "multilabel"


class Regression(HeadSettings):
    """C real numbers, in standardised units."""

    kind: Literal["regression"] = "regression"


class Multitask(HeadSettings):
    """Several tasks, each with its own head of ``hidden`` and ``dropout`` on the same fused tokens.

    Attributes:
        weighting: ``uncertainty`` learns how much each task's loss counts; ``equal`` adds them up.
    """

    kind: Literal["multitask"] = "multitask"
    weighting: Literal["uncertainty", "equal"] = "uncertainty"

    def build(self, dim: int, target: Target) -> Head:
        """Return a head for each of the target's tasks.

        Raises:
            ValueError: The target is a single task.
        """
        self.check(target)
        heads = [
            PerceptronHead(dim, outputs=each.target.outputs, hidden=self.hidden, dropout=self.dropout)
            for each in target.tasks
        ]
        return SeveralHeads(heads, weighed=self.weighting == "uncertainty")


HeadSpec = Annotated[Classification | Multilabel | Regression | Multitask, Field(discriminator="kind")]
