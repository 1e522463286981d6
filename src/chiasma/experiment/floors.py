"""Classical floors that are not designs: the simplest answers, which everything else must beat.

Fitted on train (the strength of regularisation is chosen on steer, then both are used), with scikit-learn. The work is
bounded by rows, never by a clock, so that the same data give the same floor on every machine.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse
from scipy.special import log_softmax, logit

from chiasma.core.rng import numpy_rng
from chiasma.data.dataset import Dataset
from chiasma.data.several import parts_of
from chiasma.data.signature import Signature, Target, TextInput
from chiasma.experiment.floor_features import FeatureBlock, ImageBlock, Matrix, TextBlock

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = {"classification": (1.0, 10.0), "multilabel": (1.0, 10.0), "regression": (1.0, 10.0, 100.0)}
MOST_ROWS = 20_000
FEWEST_ROWS = 2_000
MOST_WORK = 1e8
ITERATIONS = 1000
TOLERANCE = 1e-3
LEAST_PROBABILITY = 1e-6

Fitted = Callable[[Matrix], np.ndarray]


class ClassicalFloor(ABC):
    """A baseline with one deterministic fit.

    Attributes:
        name: Unique in a run.
        description: One line a user understands; after fitting it also says how much of the data was used.
        seconds: What the fit cost.
    """

    name: str
    description: str
    seconds: float = 0.0

    def fit(self, dataset: Dataset) -> Self:
        """Fit on train and steer, and return the floor."""
        started = time.perf_counter()
        self._fit(dataset)
        self.seconds = time.perf_counter() - started
        return self

    def logits(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return outputs ``[n C]``: log-probabilities of classes, log-odds of labels, or standardised values.

        Classes that a row cannot have are impossible.
        """
        return dataset.restricted(self._logits(dataset, rows), rows)

    @abstractmethod
    def _fit(self, dataset: Dataset) -> None:
        """Fit on train and steer."""

    @abstractmethod
    def _logits(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return outputs ``[n C]`` as if every row could have every class."""


class Majority(ClassicalFloor):
    """Always the same answer: how frequent each class or label is, or the mean."""

    name = "majority"

    def __init__(self) -> None:
        self.description = "always the most frequent answer"
        self._answer = np.zeros(0)

    def _fit(self, dataset: Dataset) -> None:
        target = dataset.signature.target
        labels = _labels(dataset, _fitting_rows(dataset))
        if target.task == "regression":
            self.description = "always the mean"
        if target.tasks:
            self.description = "always the most frequent answer of each task, or its mean"
        self._answer = prior(labels, target)

    def _logits(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        return np.tile(self._answer, (len(rows), 1))


class LinearFloor(ClassicalFloor):
    """A linear model on classical features: logistic regression, one a label, or ridge regression.

    Args:
        name: Unique in a run.
        blocks: The features; each example's are put side by side.
        target: What is predicted.
        seed: Of the sample where the data are too large to be used whole.
    """

    def __init__(self, name: str, blocks: Sequence[FeatureBlock], *, target: Target, seed: int = 0) -> None:
        model = "ridge regression" if target.task == "regression" else "logistic regression"
        self.name = name
        self.description = f"{model} on {' and '.join(block.description for block in blocks)}"
        self.seed = seed
        self._target = target
        self._blocks = tuple(blocks)
        self._predict: Fitted | None = None

    def _fit(self, dataset: Dataset) -> None:
        train, steer = dataset.rows("train"), dataset.rows("steer")
        kept = _sample(train, MOST_ROWS, self.seed)
        for block in self._blocks:
            block.fit(dataset, kept)
        kept = _sample(kept, affordable_rows(self._features(dataset, kept[:200]), self._target.outputs), self.seed)
        if len(kept) < len(train):
            self.description += f", fitted on {len(kept):,} of {len(train):,} rows"
        judges = _sample(steer, len(kept), self.seed)
        x, y = self._features(dataset, kept), _labels(dataset, kept)
        judged, truth = self._features(dataset, judges), _labels(dataset, judges)
        strengths = STRENGTHS[self._target.task]
        losses = [loss(self._fitted(x, y, c)(judged), truth, self._target) for c in strengths if len(judges)]
        strength = strengths[int(np.argmin(losses))] if losses else strengths[0]
        self._predict = self._fitted(sparse.vstack([x, judged]).tocsr(), np.concatenate([y, truth]), strength)

    def _logits(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        if self._predict is None:
            raise ValueError(f"floor {self.name!r} must be fitted before it predicts.")
        return self._predict(self._features(dataset, rows))

    def _features(self, dataset: Dataset, rows: np.ndarray) -> Matrix:
        return sparse.hstack([block.transform(dataset, rows) for block in self._blocks]).tocsr().astype(np.float32)

    def _fitted(self, x: Matrix, y: np.ndarray, strength: float) -> Fitted:
        fitters = {"classification": _fit_classes, "multilabel": _fit_labels, "regression": _fit_values}
        return fitters[self._target.task](x, y, strength, self._target)


def classical_floors(signature: Signature, *, seed: int = 0) -> list[ClassicalFloor]:
    """Return the floors that apply to a dataset, not yet fitted: majority, each kind of input alone, and both."""
    texts = [name for name, kind in signature.inputs.items() if isinstance(kind, TextInput)]
    images = [name for name, kind in signature.inputs.items() if not isinstance(kind, TextInput)]
    floors: list[ClassicalFloor] = [Majority()]

    def linear(name: str, *blocks: FeatureBlock) -> None:
        floors.append(LinearFloor(name, blocks, target=signature.target, seed=seed))

    suffix = "ridge" if signature.target.task == "regression" else "logistic"
    if texts:
        linear(f"tfidf_{suffix}", TextBlock())
    if images:
        linear(f"image_{suffix}", *(ImageBlock(name, signature.inputs[name]) for name in images))
    if texts and images:
        blocks = [ImageBlock(name, signature.inputs[name]) for name in images]
        linear(f"tfidf_image_{suffix}", TextBlock(), *blocks)
    return floors


def prior(labels: np.ndarray, target: Target) -> np.ndarray:
    """Return the constant outputs ``[C]`` with the least loss on these labels, smoothed so that none is impossible."""
    if target.tasks:
        return np.concatenate([prior(part.of(labels)[1], part.target) for part in parts_of(target)])
    if target.task == "classification":
        counts = np.bincount(labels, minlength=target.outputs) + 1.0
        return np.log(counts / counts.sum())
    if target.task == "multilabel":
        return logit((labels.sum(0) + 1.0) / (len(labels) + 2.0))
    return labels.mean(0)


def loss(outputs: np.ndarray, labels: np.ndarray, target: Target) -> float:
    """Return the mean loss by which the regularisation is chosen: log loss, or squared error."""
    if target.task == "classification":
        return float(-log_softmax(outputs, axis=1)[np.arange(len(labels)), labels].mean())
    if target.task == "multilabel":
        return float((np.logaddexp(0, outputs) - labels * outputs).mean())
    return float(((outputs - labels) ** 2).mean())


def affordable_rows(sample: Matrix, outputs: int) -> int:
    """Return how many rows like these a fit may use: rows times features present times outputs are bounded."""
    per_row = max(1.0, sample.nnz / max(1, sample.shape[0])) * outputs
    return int(min(MOST_ROWS, max(FEWEST_ROWS, MOST_WORK / per_row)))


def _fit_classes(x: Matrix, y: np.ndarray, strength: float, target: Target) -> Fitted:
    present = np.unique(y)
    if len(present) < 2:
        answer = prior(y, target)
        return lambda features: np.tile(answer, (features.shape[0], 1))
    model = _logistic(strength).fit(x, y)

    def predict(features: Matrix) -> np.ndarray:
        # Classes that train lacks are unlikely, never impossible: log loss stays finite.
        p = np.full((features.shape[0], target.outputs), LEAST_PROBABILITY)
        p[:, present] += model.predict_proba(features).astype(np.float64)
        return np.log(p / p.sum(1, keepdims=True))

    return predict


def _fit_labels(x: Matrix, y: np.ndarray, strength: float, target: Target) -> Fitted:
    fallback = prior(y, target)
    varied = [c for c in range(target.outputs) if 0 < y[:, c].sum() < len(y)]
    models = {c: _logistic(strength).fit(x, y[:, c] > 0.5) for c in varied}

    def predict(features: Matrix) -> np.ndarray:
        outputs = np.tile(fallback, (features.shape[0], 1))
        for c, model in models.items():
            outputs[:, c] = model.decision_function(features)
        return outputs

    return predict


def _fit_values(x: Matrix, y: np.ndarray, strength: float, target: Target) -> Fitted:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength, solver="lsqr").fit(x, y)
    return lambda features: np.asarray(model.predict(features)).reshape(features.shape[0], target.outputs)


def _logistic(strength: float) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=ITERATIONS, tol=TOLERANCE)


def _fitting_rows(dataset: Dataset) -> np.ndarray:
    return np.concatenate([dataset.rows("train"), dataset.rows("steer")])


def _labels(dataset: Dataset, rows: np.ndarray) -> Any:
    labels = dataset.labels(rows).numpy()
    return labels.astype(np.int64 if labels.ndim == 1 else np.float64)


def _sample(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most so many rows, in their order."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(numpy_rng(seed, "floor").choice(len(rows), most, replace=False))]
