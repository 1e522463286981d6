"""Check predictions: nothing missing, nothing impossible, and nothing unlike what the model showed on ``select``."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import bdtrc

from chiasma.core.rng import numpy_rng
from chiasma.data.signature import Target
from chiasma.experiment.calibration import Calibrator, confidence_of
from chiasma.experiment.checks import Check, CheckName, CheckRules
from chiasma.experiment.expectation import ALARM, Expectation, answer_key
from chiasma.experiment.statistics import Bootstrap, UndefinedMetricError
from chiasma.train.metrics import expected_calibration_error, measure

FEWEST = 20
SIMULATED = 200
# Areas under curves are slow to resample, and only one bound is asked for.
RESAMPLES = 200
# Closer to the threshold than this, rounding decides.
NEAR = 1e-9
DECIDES = {"classification": "auroc", "multilabel": "map", "regression": "r2"}

Finding = tuple[bool | None, float | None, float | None, str]


@dataclass(frozen=True)
class Predictions:
    """What is checked.

    Attributes:
        target: What is predicted.
        asked: Rows that were to be predicted.
        decisions: What was predicted of each row that could be read ``[n]``.
        scores: Its calibrated probabilities, or its values ``[n C]``.
        calibrator: What made one of the other.
        inputs: Returns something that tells the inputs of the rows at some places apart.
        judged: The true labels of all rows, in the same order; None where they are not known.
    """

    target: Target
    asked: int
    decisions: Sequence[Any]
    scores: np.ndarray
    calibrator: Calibrator
    inputs: Callable[[np.ndarray], Sequence[Any]] | None = None
    judged: Bootstrap | None = None

    @property
    def readable(self) -> np.ndarray:
        """Return which rows have all scores ``[n]``."""
        return np.asarray(np.isfinite(self.scores).all(1))


def check_predictions(
    found: Predictions, rules: CheckRules, *, expected: Expectation | None = None
) -> tuple[Check, ...]:
    """Return what every check that fits the task says.

    Args:
        found: The predictions.
        rules: When they are good enough.
        expected: What they looked like on select; None where these are the ones on select.
    """
    return tuple(
        Check(
            name=name,
            passed=passed,
            value=None if value is None else float(value),
            threshold=None if threshold is None else float(threshold),
            required=name in rules.required,
            words=words,
        )
        for name, (passed, value, threshold, words) in _findings(found, rules, expected)
    )


def _findings(
    found: Predictions, rules: CheckRules, expected: Expectation | None
) -> Iterator[tuple[CheckName, Finding]]:
    yield "prediction_count", _count(found, rules)
    if not len(found.decisions):
        return
    yield "no_null_predictions", _nulls(found)
    if found.target.task not in DECIDES:
        return
    yield "valid_predictions", _valid(found)
    yield "no_null_probabilities", _null_scores(found)
    if found.target.task != "regression":
        yield "valid_probability_range", _range(found)
        yield "threshold_is_used", _threshold(found)
        yield "class_distribution", _distribution(found, rules, expected)
    if found.inputs is not None:
        yield "duplicate_predictions", _duplicates(found, rules)
    if expected is not None and expected.scores:
        yield "drift_from_select", _drift(found, rules, expected)
    if found.judged is not None and found.readable.all():
        yield "better_than_random", _better(found, found.judged)
        if found.target.task != "regression":
            yield "calibration_error", _calibration(found, rules, found.judged)


def _count(found: Predictions, rules: CheckRules) -> Finding:
    given, least = len(found.decisions), max(1.0, rules.predicted * found.asked)
    return given >= least, given, least, f"{given:,} of {found.asked:,} rows got a prediction"


def _nulls(found: Predictions) -> Finding:
    nulls = sum(not _is_value(decision) for decision in found.decisions)
    return not nulls, nulls, 0, f"{nulls:,} predictions are empty"


def _valid(found: Predictions) -> Finding:
    wrong = sum(not _fits(decision, found.target) for decision in found.decisions)
    what = "numbers" if found.target.task == "regression" else f"among the {found.target.outputs} known labels"
    return not wrong, wrong, 0, f"{wrong:,} predictions are not {what}"


def _null_scores(found: Predictions) -> Finding:
    nulls = int(np.isnan(found.scores).any(1).sum())
    return not nulls, nulls, 0, f"{nulls:,} rows have a probability or value that is not a number"


def _range(found: Predictions) -> Finding:
    known = found.scores[~np.isnan(found.scores).any(1)]
    outside = ((known < 0) | (known > 1)).any(1)
    if found.target.task == "classification":
        outside |= np.abs(known.sum(1) - 1) > 1e-4
    wrong = int(outside.sum())
    return not wrong, wrong, 0, f"{wrong:,} rows have probabilities outside of 0 to 1, or that do not add up to 1"


def _threshold(found: Predictions) -> Finding:
    """Hold each decision against the probabilities and the thresholds that select chose."""
    rows = np.flatnonzero(found.readable)
    wrong = sum(not _follows(found.decisions[int(row)], found.scores[row], found) for row in rows)
    chosen = ", ".join(f"{value:.3g}" for value in found.calibrator.thresholds[:4])
    rule = f"the threshold that select chose ({chosen})" if chosen else "the greatest probability"
    if not chosen and found.target.task == "multilabel":
        rule = "a half"
    return not wrong, wrong, 0, f"{wrong:,} predictions do not follow from {rule}"


def _distribution(found: Predictions, rules: CheckRules, expected: Expectation | None) -> Finding:
    counts = Counter(map(answer_key, found.decisions))
    (answer, most), rows = counts.most_common(1)[0], len(found.decisions)
    words = f"{most / rows:.0%} of the rows are {answer!r}"
    if expected is None and rows < FEWEST:
        return None, most / rows, rules.largest_class, f"{words}; {rows} rows are too few to tell"
    threshold = rules.largest_class
    if expected is not None:
        usual = expected.share(answer)
        threshold = max(threshold, _most_by_chance(rows, usual) / rows)
        words = f"{words}; on select {usual:.0%}"
    return most / rows <= threshold, most / rows, threshold, words


def _most_by_chance(rows: int, share: float) -> int:
    """Return how many rows get an answer of this share no more often than once in a thousand times."""
    more = bdtrc(np.arange(rows + 1), rows, share)
    return int(np.argmax(more <= ALARM))


def _duplicates(found: Predictions, rules: CheckRules) -> Finding:
    """Count rows whose exact output also is that of another input."""
    rows = len(found.decisions)
    if rows < FEWEST:
        return None, None, rules.duplicates, f"{rows} rows are too few to tell"
    assert found.inputs is not None
    _, place, counts = np.unique(found.scores, axis=0, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(counts[place.ravel()] > 1)
    inputs: dict[int, set[Any]] = {}
    for output, given in zip(place.ravel()[shared], found.inputs(shared), strict=True):
        inputs.setdefault(int(output), set()).add(given)
    alike = sum(len(inputs[int(output)]) > 1 for output in place.ravel()[shared])
    words = f"{alike:,} of {rows:,} rows have exactly the output of another input"
    return alike / rows <= rules.duplicates, alike / rows, rules.duplicates, words


def _drift(found: Predictions, rules: CheckRules, expected: Expectation) -> Finding:
    scores = found.scores[found.readable]
    if len(scores) < FEWEST:
        return None, None, rules.drift, f"{len(scores)} rows are too few to tell"
    distance, chance = expected.distance(scores), expected.distance_by_chance(len(scores))
    words = (
        f"greatest distance of the distribution of scores from select's {expected.examples:,}: {distance:.3f} "
        f"(chance alone: up to {chance:.3f})"
    )
    threshold = max(rules.drift, chance)
    return distance <= threshold, distance, threshold, words


def _better(found: Predictions, judged: Bootstrap) -> Finding:
    """Compare with one answer for all rows, by the interval of the difference."""
    metric = DECIDES[found.target.task]
    outputs, same = _as_outputs(found), _constant(found, judged)
    chance = measure(same, judged.labels, found.target).get(metric)
    try:
        gain, _ = replace(judged, resamples=RESAMPLES).paired_gain(outputs[None], same[None], metric)
    except UndefinedMetricError as error:
        return None, None, None, str(error)
    if chance is None:
        return None, None, None, f"{metric} is not defined on these labels."
    low, value, high = (chance + bound for bound in (gain.low, gain.value, gain.high))
    return gain.low > 0, low, chance, f"{metric} {value:.3f} ({low:.3f} to {high:.3f}); one answer for all {chance:.3f}"


def _calibration(found: Predictions, rules: CheckRules, judged: Bootstrap) -> Finding:
    confidence, right = confidence_of(found.scores, judged.labels)
    error = expected_calibration_error(confidence, right)
    rng = numpy_rng(0, "calibration check")
    # Perfectly calibrated answers with these confidences have an error above zero too, the more the fewer they are.
    perfect = [expected_calibration_error(confidence, rng.random(len(right)) < confidence) for _ in range(SIMULATED)]
    chance = float(np.quantile(perfect, 0.99))
    threshold = max(rules.calibration_error, chance)
    words = f"expected calibration error {error:.3f} (perfect calibration: up to {chance:.3f} by chance)"
    return error <= threshold, error, threshold, words


def _as_outputs(found: Predictions) -> np.ndarray:
    """Return scores as something of which metrics take the softmax, the order or the values."""
    if found.target.task == "regression":
        return found.scores
    p = np.clip(found.scores, 1e-12, 1 - 1e-12)
    return np.log(p) if found.target.task == "classification" else np.log(p) - np.log1p(-p)


def _constant(found: Predictions, judged: Bootstrap) -> np.ndarray:
    if found.target.task == "regression":
        return np.broadcast_to(judged.labels.mean(0), found.scores.shape)
    return np.zeros(found.scores.shape)


def _is_value(decision: Any) -> bool:
    if isinstance(decision, dict):
        return all(map(_is_value, decision.values()))
    if isinstance(decision, tuple):
        return all(_is_value(item) for item in decision)
    if isinstance(decision, float):
        return not np.isnan(decision)
    return decision is not None and decision != ""


def _fits(decision: Any, target: Target) -> bool:
    if target.task == "classification":
        return decision in target.labels
    if target.task == "multilabel":
        return isinstance(decision, tuple) and set(decision) <= set(target.labels)
    values = decision if isinstance(decision, tuple) else (decision,)
    return len(values) == target.outputs and all(isinstance(v, float) and np.isfinite(v) for v in values)


def _follows(decision: Any, scores: np.ndarray, found: Predictions) -> bool:
    thresholds, labels = found.calibrator.thresholds, found.target.labels
    if found.target.task == "multilabel":
        bar = np.asarray(thresholds or 0.5)
        said = np.array([name in decision for name in labels])
        return bool(((said == (scores > bar)) | (np.abs(scores - bar) < NEAR)).all())
    if decision not in labels:
        return False
    if thresholds:
        near = abs(scores[1] - thresholds[0]) < NEAR
        return bool(near or (decision == labels[1]) == (scores[1] > thresholds[0]))
    return bool(scores[labels.index(decision)] >= scores.max() - NEAR)
