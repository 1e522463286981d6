"""Heads: from the fused tokens to the output, one for each task."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from chiasma.data.batch import Output, TokenBatch, Tokens
from chiasma.data.signature import Target
from chiasma.model.contrastive import Contrastive
from chiasma.model.head import Head, HeadSettings, perceptron


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
        self.layers = perceptron(dim, outputs=outputs, hidden=hidden, dropout=dropout)

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


class PerceptronSettings(HeadSettings):
    """What the heads of one task have that give one score a label."""

    def build(self, dim: int, target: Target) -> Head:
        """Return a head with one output for each label of the target.

        Raises:
            ValueError: The target's task is not the one this head is for.
        """
        self.check(target)
        return PerceptronHead(dim, outputs=target.outputs, hidden=self.hidden, dropout=self.dropout)


class Classification(PerceptronSettings):
    """One class out of C: scores before the softmax."""

    kind: Literal["classification"] = "classification"


class Multilabel(PerceptronSettings):
    """Any subset of C labels: scores before the sigmoid."""

    kind: Literal["multilabel"] = "multilabel"


class Regression(PerceptronSettings):
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


HeadSpec = Annotated[Classification | Multilabel | Regression | Multitask | Contrastive, Field(discriminator="kind")]
