"""Make probabilities mean what they say, and choose the threshold, on the select split alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, logit, softmax

from chiasma.core.spec import Spec
from chiasma.data.choices import possible
from chiasma.data.several import parts_of
from chiasma.data.signature import Target, Task
from chiasma.experiment.results import Calibration
from chiasma.train.metrics import CALIBRATION_BINS, MEAN_SCORE, expected_calibration_error, plain_name

THRESHOLD_METRICS = frozenset({"accuracy", "balanced_accuracy", "f1_macro", "f1_micro", MEAN_SCORE})
HOTTEST = 20.0


def judges_decisions(metric: str) -> bool:
    """Return whether a metric, perhaps of one of several tasks, sees what was decided rather than probabilities."""
    return plain_name(metric) in THRESHOLD_METRICS


class Calibrator(Spec):
    """Temperature scaling (Guo et al. 2017, https://arxiv.org/abs/1706.04599) and decision thresholds.

    Unlike the paper, one temperature a label where labels are independent, and labels smoothed as by Platt 1999, so
    that a select split without a single error does not make the model infinitely sure.

    Attributes:
        task: Of the target; quantities, pairs and texts stay as they are.
        temperatures: One for classes, one a label for labels, none for a regression.
        thresholds: Probability above which the positive class (two classes) or a label is given; empty for the greatest
            probability, or a half.
        parts: Of several tasks each one's own, with how many outputs it is for; empty for one task.
    """

    task: Task
    temperatures: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    parts: tuple["PartCalibrator", ...] = ()

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return logits ``[... C]`` divided by their temperatures; their order within an example is unchanged."""
        if self.parts:
            return self._by_part(logits, lambda own, part: own.apply(part))
        return logits / np.asarray(self.temperatures) if self.temperatures else logits

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities ``[... C]``; the values themselves for a regression."""
        if self.parts:
            return self._by_part(logits, lambda own, part: own.probabilities(part))
        if not self._decides:
            return logits
        return softmax(self.apply(logits), axis=-1) if self.task == "classification" else expit(self.apply(logits))

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the predicted class ``[...]``, the predicted labels ``[... C]`` as booleans, or the values."""
        if not self._decides:
            return logits
        shifted = self.decision_logits(logits)
        return shifted.argmax(-1) if self.task == "classification" else shifted > 0

    def decision_logits(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated logits moved so that a plain argmax, or sign, is the thresholded decision.

        They serve metrics of decisions (accuracy, F1); their probabilities are no longer calibrated.
        """
        if self.parts:
            return self._by_part(logits, lambda own, part: own.decision_logits(part))
        scaled = self.apply(logits)
        if not self.thresholds:
            return scaled
        shift = logit(np.asarray(self.thresholds))
        return scaled - shift if self.task == "multilabel" else scaled - np.array([0.0, shift[0]])

    def describe(self, logits: np.ndarray, labels: np.ndarray) -> Calibration | None:
        """Return how calibrated unseen examples are before and after; None but for classes or labels.

        Args:
            logits: Uncalibrated outputs ``[n C]`` or of several seeds ``[S n C]``.
            labels: As for metrics.
        """
        if not self._decides:
            return None
        plain = Calibrator(task=self.task)
        return Calibration(
            temperature=float(np.mean(self.temperatures)),
            threshold=self.thresholds[0] if len(self.thresholds) == 1 else None,
            expected_error_before=_calibration_error(plain.probabilities(logits), labels),
            expected_error_after=_calibration_error(self.probabilities(logits), labels),
        )

    def reliability(self, logits: np.ndarray, labels: np.ndarray) -> tuple[dict[str, float], ...]:
        """Return mean confidence, accuracy and count in each bin of confidence that is not empty."""
        if not self._decides:
            return ()
        confidence, correct = confidence_of(self.probabilities(logits), labels)
        place = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        return tuple(
            {
                "confidence": float(confidence[place == k].mean()),
                "accuracy": float(correct[place == k].mean()),
                "count": float((place == k).sum()),
            }
            for k in np.unique(place)
        )

    @property
    def _decides(self) -> bool:
        return self.task in ("classification", "multilabel")

    def _by_part(self, logits: np.ndarray, act: Callable[["Calibrator", np.ndarray], np.ndarray]) -> np.ndarray:
        edges = np.cumsum([part.outputs for part in self.parts])[:-1]
        pieces = np.split(np.asarray(logits), edges, axis=-1)
        return np.concatenate([act(p.calibrator, own) for p, own in zip(self.parts, pieces, strict=True)], axis=-1)


class PartCalibrator(Spec):
    """What was fitted for one of several tasks.

    Attributes:
        outputs: How many columns of the model's outputs are this task's.
    """

    outputs: int
    calibrator: Calibrator


def fit_calibrator(logits: np.ndarray, labels: np.ndarray, target: Target, *, metric: str) -> Calibrator:
    """Fit temperatures, and thresholds where the metric judges decisions, on the select split.

    Args:
        logits: Outputs on select ``[n C]``.
        labels: Labels of select.
        target: What is predicted.
        metric: The thresholds maximise it; ties go to the threshold nearest to a half.
    """
    outputs = np.asarray(logits, dtype=np.float64)
    if target.tasks:
        return _fit_each(outputs, np.asarray(labels), target, metric=metric)
    if target.task not in ("classification", "multilabel"):
        return Calibrator(task=target.task)
    if target.task == "classification":
        calibrator = Calibrator(task="classification", temperatures=(_class_temperature(outputs, np.asarray(labels)),))
        if target.outputs != 2 or metric not in THRESHOLD_METRICS:
            return calibrator
        threshold = best_threshold(calibrator.probabilities(outputs)[:, 1], np.asarray(labels) == 1, metric=metric)
        return calibrator.model_copy(update={"thresholds": (threshold,)})
    truth = np.asarray(labels) > 0.5
    temperatures = tuple(_label_temperature(outputs[:, c], truth[:, c]) for c in range(target.outputs))
    calibrator = Calibrator(task="multilabel", temperatures=temperatures)
    if metric not in THRESHOLD_METRICS:
        return calibrator
    p = calibrator.probabilities(outputs)
    thresholds = tuple(best_threshold(p[:, c], truth[:, c], metric="f1") for c in range(target.outputs))
    return calibrator.model_copy(update={"thresholds": thresholds})


def best_threshold(p: np.ndarray, positives: np.ndarray, *, metric: str) -> float:
    """Return the probability above which to say yes; among equally good ones the nearest to a half.

    Args:
        p: Probability of yes ``[n]``.
        positives: Whether yes is right ``[n]``.
        metric: ``accuracy``, ``balanced_accuracy``, ``f1_macro`` over both answers, or ``f1`` of yes.
    """
    seen = np.unique(np.r_[0.0, p, 1.0])
    candidates = np.unique(np.r_[(seen[:-1] + seen[1:]) / 2, 0.5])
    candidates = candidates[(candidates > 0) & (candidates < 1)]
    # Counts above each candidate, from the sorted probabilities of both answers.
    hits = positives.sum() - np.searchsorted(np.sort(p[positives]), candidates, side="right")
    alarms = (~positives).sum() - np.searchsorted(np.sort(p[~positives]), candidates, side="right")
    scores = _binary_scores(metric, hits, alarms, int(positives.sum()), int((~positives).sum()))
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(candidates[best[np.abs(candidates[best] - 0.5).argmin()]])


def _binary_scores(metric: str, hits: np.ndarray, alarms: np.ndarray, yes: int, no: int) -> np.ndarray:
    """Return the metric for each threshold's true and false positives."""
    rejected = no - alarms
    f1_yes = 2 * hits / np.maximum(hits + alarms + yes, 1)
    match metric:
        case "f1":
            return f1_yes
        case "f1_macro":
            return (f1_yes + 2 * rejected / np.maximum(2 * rejected + alarms + yes - hits, 1)) / 2
        case "balanced_accuracy":
            return (hits / max(yes, 1) + rejected / max(no, 1)) / 2
        case _:
            return (hits + rejected) / (yes + no)


def _fit_each(logits: np.ndarray, labels: np.ndarray, target: Target, *, metric: str) -> Calibrator:
    """Fit each task by itself on the rows that have a label of it; the metric decides where it is the task's own."""
    found: list[PartCalibrator] = []
    for part in parts_of(target):
        known, own = part.of(labels)
        named = plain_name(metric) if metric == f"{part.name}/{plain_name(metric)}" else ""
        fitted: Any = Calibrator(task=part.target.task)
        if known.any():
            fitted = fit_calibrator(logits[known][:, part.outputs], own, part.target, metric=named or "accuracy")
        found.append(PartCalibrator(outputs=part.target.outputs, calibrator=fitted))
    return Calibrator(task="multitask", parts=tuple(found))


def _class_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    smooth = 1 / (len(labels) + 2)
    there = possible(logits)
    truth = np.where(there, smooth / there.sum(1, keepdims=True), 0.0)
    truth[np.arange(len(labels)), labels] += 1 - smooth

    def loss(log_temperature: float) -> float:
        return float(-(truth * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(1).mean())

    return _minimise(loss)


def _label_temperature(logits: np.ndarray, positives: np.ndarray) -> float:
    smooth = 1 / (len(positives) + 2)
    truth = np.where(positives, 1 - smooth / 2, smooth / 2)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - truth * scaled).mean())

    return _minimise(loss)


def _minimise(loss: Callable[[float], float]) -> float:
    """Return the temperature with the least loss, which has one minimum; between 1/20 and 20."""
    from scipy.optimize import minimize_scalar

    bound = float(np.log(HOTTEST))
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def confidence_of(p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each answer that was given and whether it was right, both flat."""
    if p.shape[-1] > 1 and np.ndim(labels) == 1:
        return p.max(-1).ravel(), (p.argmax(-1) == labels).ravel()
    said = p > 0.5
    return np.where(said, p, 1 - p).ravel(), (said == (np.asarray(labels) > 0.5)).ravel()


def _calibration_error(p: np.ndarray, labels: np.ndarray) -> float:
    return expected_calibration_error(*confidence_of(p, labels))
