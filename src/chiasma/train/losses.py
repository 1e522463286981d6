"""Losses, each the mean over examples, so that accumulated micro-batches add up to the big batch exactly.

Class weights are scaled to a mean of one over the train split, and the sum is divided by the number of examples, not by
the sum of the weights as torch does: torch's weighted mean depends on which examples share a micro-batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from chiasma.core.errors import ConfigError
from chiasma.data.several import Part, parts_of
from chiasma.data.signature import Target
from chiasma.train.design import BinaryCrossEntropy, CrossEntropy, Focal, Huber, LossSpec, SquaredError

# Below this, (1 - p) ** gamma has no finite gradient for gamma < 1.
SMALLEST_DOUBT = 1e-12

TASKS = {
    "cross_entropy": ("classification",),
    "focal": ("classification", "multilabel"),
    "binary_cross_entropy": ("multilabel",),
    "squared_error": ("regression",),
    "huber": ("regression",),
}


class Loss(nn.Module, ABC):
    """A mean over examples; in float32 whatever the model computes in."""

    @abstractmethod
    def forward(self, logits: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
        """Return the loss of int64 ``[B]`` classes, or of float ``[B C]`` labels or standardised values."""


class SeveralLosses(Loss):
    """The losses of several tasks, each over the rows that have a label of it, weighed by what the model is unsure of.

    Kendall et al. 2018 (https://arxiv.org/abs/1705.07115): the sum of ``exp(-s) * loss + s`` with a learned log
    variance ``s`` a task; unlike the paper's, the same for quantities as for classes. Without log variances it is the
    plain sum. Each loss is scaled by how many train rows have a label of its task, and divided by all rows of a batch:
    over an epoch that is the mean over the labelled ones, whatever rows share a micro-batch.

    Args:
        parts: The tasks' places.
        losses: One a task.
        scales: Train rows for each one that has a label, by task.
    """

    def __init__(self, parts: Sequence[Part], losses: Sequence[Loss], *, scales: Sequence[float]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.losses = nn.ModuleList(losses)
        self.scales = tuple(scales)

    def forward(
        self,
        logits: Float[Tensor, "B C"],
        labels: Float[Tensor, "B columns"],
        log_variances: Float[Tensor, " tasks"] | None = None,
    ) -> Float[Tensor, ""]:
        total = torch.zeros((), device=logits.device)
        for place, (part, loss, scale) in enumerate(zip(self.parts, self.losses, self.scales, strict=True)):
            own = labels[:, part.columns]
            known = ~own.isnan().any(1)
            if bool(known.any()):
                truth = own[known][:, 0].long() if part.target.task == "classification" else own[known]
                share = scale * known.sum() / len(labels)
                each = loss(logits[known][:, part.outputs], truth) * share
                total = total + (each if log_variances is None else torch.exp(-log_variances[place]) * each)
        return total if log_variances is None else total + log_variances.sum()


class ContrastiveLoss(Loss):
    """Symmetric InfoNCE of CLIP (Radford et al. 2021): each image finds its text among the batch's, and back.

    The logits are directions ``[B 2P]`` whose products are scaled similarities, the labels say which image and which
    text a row has. Unlike there, a pair that shares its image or its text with a row is not held against it: several
    captions of one image would otherwise be each other's wrong answers.
    """

    def forward(self, logits: Float[Tensor, "B C"], labels: Int[Tensor, "B 2"]) -> Float[Tensor, ""]:
        image, text = logits.float().chunk(2, dim=1)
        similar = image @ text.T
        alike = (labels[:, None] == labels[None]).any(-1)
        alike.fill_diagonal_(False)
        similar = similar.masked_fill(alike, torch.finfo(similar.dtype).min)
        own = torch.arange(len(labels), device=labels.device)
        return (functional.cross_entropy(similar, own) + functional.cross_entropy(similar.T, own)) / 2


class CrossEntropyLoss(Loss):
    """Cross-entropy with label smoothing (Szegedy et al. 2016) and class weights."""

    weights: Tensor | None

    def __init__(self, *, smoothing: float, weights: Tensor | None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
        if self.weights is None:
            return functional.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
        each = functional.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing, reduction="none")
        return (each * self.weights[labels]).mean()


class FocalLoss(Loss):
    """Focal loss of Lin et al. 2017 (https://arxiv.org/abs/1708.02002) over a softmax.

    Two classes: alpha weighs class 1 and 1 - alpha class 0, as in the paper. More classes: no alpha. Unlike in the
    paper the label may be smoothed (Szegedy et al. 2016): the loss is then the mean of the focal terms of all classes,
    each as if it were the label, by the smoothed label.
    """

    weights: Tensor | None

    def __init__(self, *, gamma: float, alpha: float | None, smoothing: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.smoothing = smoothing
        self.register_buffer("weights", None if alpha is None else torch.tensor([1 - alpha, alpha]), persistent=False)

    def forward(self, logits: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
        log_p = functional.log_softmax(logits.float(), dim=-1)
        if not self.smoothing:
            log_p = log_p.gather(1, labels[:, None])[:, 0]
            each = -(_doubt(log_p) ** self.gamma) * log_p
            return each.mean() if self.weights is None else (each * self.weights[labels]).mean()
        terms = -(_doubt(log_p) ** self.gamma) * log_p
        terms = terms if self.weights is None else terms * self.weights
        smooth = torch.full_like(terms, self.smoothing / terms.shape[1])
        smooth.scatter_(1, labels[:, None], 1 - self.smoothing + self.smoothing / terms.shape[1])
        return (smooth * terms).sum(1).mean()


class MultilabelFocalLoss(Loss):
    """Focal loss of Lin et al. 2017 over one sigmoid a label; alpha weighs positives, 1 - alpha negatives.

    Each label may be smoothed, as in :class:`FocalLoss` over its two values.
    """

    def __init__(self, *, gamma: float, alpha: float | None, smoothing: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.smoothing = smoothing

    def forward(self, logits: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
        there = labels > 0.5
        if not self.smoothing:
            return self._as_if(there, logits.float()).mean()
        right, wrong = self._as_if(there, logits.float()), self._as_if(~there, logits.float())
        return ((1 - self.smoothing / 2) * right + self.smoothing / 2 * wrong).mean()

    def _as_if(self, there: Tensor, logits: Tensor) -> Tensor:
        """Return the focal terms ``[B C]`` as if these were the labels."""
        log_p = functional.logsigmoid(torch.where(there, logits, -logits))
        each = -(_doubt(log_p) ** self.gamma) * log_p
        return each if self.alpha is None else each * torch.where(there, self.alpha, 1 - self.alpha)


class MultilabelCrossEntropyLoss(Loss):
    """Binary cross-entropy, the mean over examples and labels."""

    positive_weights: Tensor | None

    def __init__(self, *, positive_weights: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("positive_weights", positive_weights, persistent=False)

    def forward(self, logits: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
        return functional.binary_cross_entropy_with_logits(
            logits.float(), labels.float(), pos_weight=self.positive_weights
        )


class SquaredErrorLoss(Loss):
    """Mean squared error on standardised targets."""

    def forward(self, logits: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
        return functional.mse_loss(logits.float(), labels.float())


class HuberLoss(Loss):
    """Huber 1964, the mean over examples and targets."""

    def __init__(self, *, delta: float) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, logits: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, ""]:
        return functional.huber_loss(logits.float(), labels.float(), delta=self.delta)


def build_loss(
    spec: LossSpec | None,
    target: Target,
    *,
    class_counts: Sequence[int] | np.ndarray | None = None,
    examples: int = 0,
    labelled: Sequence[int] = (),
) -> Loss:
    """Return the loss a design asks for, or the target's own.

    Args:
        spec: None for cross-entropy, binary cross-entropy or squared error, by task. Of several tasks those whose
            labels it fits have it, the others their own.
        target: What is predicted.
        class_counts: ``[C]``, how many train examples have each class or label; needed where the loss is balanced.
        examples: Train examples; needed by balanced multi-label losses and by several tasks.
        labelled: Train examples with a label of each of several tasks; none for all of them.

    Raises:
        ConfigError: The loss does not fit the task, or alpha is given for more than two classes.
    """
    if target.tasks:
        return _several(spec, target, class_counts=class_counts, examples=examples, labelled=labelled)
    if target.task == "contrastive" and spec is None:
        return ContrastiveLoss()
    chosen = _own_loss(target) if spec is None else spec
    if target.task not in TASKS[chosen.kind]:
        raise ConfigError(
            f"train.loss: {chosen.kind!r} is for {' and '.join(TASKS[chosen.kind])}, "
            f"but the target's task is {target.task!r}."
        )
    match chosen:
        case CrossEntropy():
            weights = _class_weights(class_counts, target) if chosen.balanced else None
            return CrossEntropyLoss(smoothing=chosen.smoothing, weights=weights)
        case Focal():
            return _focal(chosen, target)
        case BinaryCrossEntropy():
            positive = _positive_weights(class_counts, target, examples) if chosen.balanced else None
            return MultilabelCrossEntropyLoss(positive_weights=positive)
        case SquaredError():
            return SquaredErrorLoss()
        case Huber():
            return HuberLoss(delta=chosen.delta)


def check_whole_batches(target: Target, *, accumulation: int, ranks: int) -> None:
    """Refuse to divide the batches of pairs, in which each row is the others' wrong answer.

    Raises:
        ConfigError: There are several micro-batches or several processes.
    """
    for name, count in (("train.accumulation", accumulation), ("torchrun", ranks)):
        if target.task == "contrastive" and count > 1:
            raise ConfigError(
                f"{name}: pairs are compared within a whole batch, which cannot be divided into {count} parts; where "
                "memory is short, train.recompute=true needs less of it."
            )


def _several(
    spec: LossSpec | None,
    target: Target,
    *,
    class_counts: Sequence[int] | np.ndarray | None,
    examples: int,
    labelled: Sequence[int],
) -> Loss:
    parts = parts_of(target)
    fitting = [spec is not None and part.target.task in TASKS[spec.kind] for part in parts]
    if spec is not None and not any(fitting):
        tasks = ", ".join(f"{part.name}: {part.target.task}" for part in parts)
        raise ConfigError(
            f"train.loss: {spec.kind!r} is for {' and '.join(TASKS[spec.kind])}, but none of the tasks is one: {tasks}."
        )
    present = list(labelled) or [examples] * len(parts)
    losses = [
        build_loss(
            spec if fits else None,
            part.target,
            class_counts=None if class_counts is None else np.asarray(class_counts)[part.outputs],
            examples=count,
        )
        for part, fits, count in zip(parts, fitting, present, strict=True)
    ]
    return SeveralLosses(parts, losses, scales=[examples / count if count else 1.0 for count in present])


def _own_loss(target: Target) -> LossSpec:
    if target.task == "classification":
        return CrossEntropy()
    return BinaryCrossEntropy() if target.task == "multilabel" else SquaredError()


def _focal(spec: Focal, target: Target) -> Loss:
    if target.task == "multilabel":
        return MultilabelFocalLoss(gamma=spec.gamma, alpha=spec.alpha, smoothing=spec.smoothing)
    if spec.alpha is not None and target.outputs != 2:
        raise ConfigError(
            "train.loss.alpha weighs the second of two classes, so it must be None for more, "
            f"but alpha={spec.alpha} and there are {target.outputs} classes."
        )
    return FocalLoss(gamma=spec.gamma, alpha=spec.alpha, smoothing=spec.smoothing)


def _counts(class_counts: Sequence[int] | np.ndarray | None, target: Target) -> np.ndarray:
    if class_counts is None or len(class_counts) != target.outputs:
        got = "none" if class_counts is None else len(class_counts)
        raise ConfigError(f"A balanced loss needs the train counts of all {target.outputs} classes, but got {got}.")
    return np.asarray(class_counts, dtype=np.float64)


def _class_weights(class_counts: Sequence[int] | np.ndarray | None, target: Target) -> Tensor:
    """Return weights ``[C]``, inverse to frequency, whose mean over the train examples is one; absent classes get 1."""
    counts = _counts(class_counts, target)
    present = counts > 0
    weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 1.0)
    return torch.tensor(weights, dtype=torch.float32)


def _positive_weights(class_counts: Sequence[int] | np.ndarray | None, target: Target, examples: int) -> Tensor:
    """Return negatives / positives for each label; 1 for a label that all or none have."""
    positives = _counts(class_counts, target)
    negatives = examples - positives
    ratio = np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)
    return torch.tensor(ratio, dtype=torch.float32)


def _doubt(log_p: Tensor) -> Tensor:
    """Return 1 - p without cancellation."""
    return (-torch.expm1(log_p)).clamp(min=SMALLEST_DOUBT)
