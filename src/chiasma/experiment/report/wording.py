"""Numbers and verdicts as a person reads them; the same words in the report and in the console."""

from collections.abc import Mapping
from typing import Any

from chiasma.experiment.results import Arm, Gain, Interval, Results
from chiasma.train.metrics import plain_name

PERCENT = frozenset({"accuracy", "balanced_accuracy", "f1_macro", "f1_micro"})
METRIC_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "log_loss": "log loss",
    "auroc": "area under the ROC curve",
    "ece": "calibration error",
    "map": "mean average precision",
    "r2": "explained variance (R²)",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "mean_score": "mean score of the tasks",
}
KIND_WORDS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "bert": "BERT-style",
    "convolution": "convolutional",
    "film": "FiLM",
    "ngram": "n-gram",
    "one_cycle": "one-cycle",
    "sgd": "SGD",
    "vit": "ViT",
}
NONE = "–"


def metric_words(metric: str) -> str:
    """Return a metric's name in words."""
    task, _, name = metric.rpartition("/")
    words = METRIC_WORDS.get(name, name.replace("_", " "))
    return f"{words} of {task}" if task else words


def kind_words(part: Mapping[str, Any]) -> str:
    """Return what a part of a design is called."""
    kind = str(part.get("name") or part.get("kind") or "unnamed")
    return KIND_WORDS.get(kind, kind.replace("_", " "))


def amount(metric: str, value: float, *, unit: bool = True) -> str:
    """Return a metric's value: ``97.2 %`` or ``0.873``."""
    if plain_name(metric) in PERCENT:
        return f"{100 * value:.1f}{' %' if unit else ''}"
    return number(value)


def number(value: float) -> str:
    """Return three significant digits, or all digits of a whole number below a million."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return signed(f"{value:.3f}" if 0.01 <= abs(value) < 10 else f"{value:.3g}")


def signed(text: str) -> str:
    """Return the text with a true minus sign."""
    return text.replace("-", "−") if text.startswith("-") else text


def interval(metric: str, estimate: Interval) -> str:
    """Return ``97.2 % (96.1 to 98.0)``."""
    low, high = (amount(metric, value, unit=False) for value in (estimate.low, estimate.high))
    return f"{amount(metric, estimate.value)} ({low} to {high})"


def points(metric: str, value: float, *, unit: bool = True) -> str:
    """Return a difference of metrics: ``3.1 points`` of a percentage, or ``0.031``."""
    if plain_name(metric) not in PERCENT:
        return number(value)
    text = signed(f"{100 * value:.1f}").replace("−0.0", "0.0")
    return text + (f" {'point' if text == '1.0' else 'points'}" if unit else "")


def gain_interval(gain: Gain, *, unit: bool = True) -> str:
    """Return ``3.1 points (2.0 to 4.2)``."""
    return difference(gain.metric, gain.gain, unit=unit)


def difference(metric: str, estimate: Interval, *, unit: bool = True) -> str:
    """Return a difference of metrics with its interval: ``3.1 points (2.0 to 4.2)``."""
    low, high = (points(metric, value, unit=False) for value in (estimate.low, estimate.high))
    return f"{points(metric, estimate.value, unit=unit)} ({low} to {high})"


def duration(seconds: float) -> str:
    """Return ``45 s``, ``3 min 20 s`` or ``1 h 05 min``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def latency(seconds: float | None) -> str:
    """Return a latency in milliseconds, or a dash."""
    return NONE if seconds is None else f"{1000 * seconds:.3g} ms"


def large(value: float | None) -> str:
    """Return ``12.3 K``, ``4.5 M`` or ``2.1 G``, or a dash."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def times(count: int) -> str:
    """Return ``never``, ``once`` or ``3 times``."""
    return {0: "never", 1: "once"}.get(count, f"{count:,} times")


def arm_named(results: Results, name: str) -> Arm | None:
    """Return the arm of this name."""
    return next((arm for arm in results.arms if arm.name == name), None)


def best_floor_gain(results: Results) -> Gain | None:
    """Return the gain against the floor that is hardest to beat on test."""
    floors = {arm.name for arm in results.arms if arm.role == "floor"}
    gains = [gain for gain in results.gains if gain.against in floors]
    return min(gains, key=lambda gain: gain.gain.value, default=None)


def headline(results: Results) -> str:
    """Return the one sentence that matters: how good, how sure, and how much better than the best floor."""
    winner = arm_named(results, results.winner)
    tested = winner.test.get(results.metric) if winner else None
    if winner is None or (tested is None and results.metric not in winner.select):
        return "Nothing was measured."
    if tested is None:
        value = winner.select[results.metric]
        return f"{_claim(results, amount(results.metric, value), 'the select split')}; the test split is still sealed."
    low, high = (amount(results.metric, value, unit=False) for value in (tested.low, tested.high))
    sure = f"({tested.level:.0%} interval {low} to {high})".replace("%", " %")
    said = f"{_claim(results, amount(results.metric, tested.value), 'unseen examples')} {sure}"
    gain = best_floor_gain(results)
    if gain is None:
        return f"{said}."
    if winner.floor is not None:
        itself = f"it is the floor {winner.floor} itself, which no searched design was shown to beat on select"
        return f"{said}; {itself}; {_against(gain).replace('the best floor', 'the best other floor')}"
    return f"{said}; {_against(gain)}"


def detectable_words(results: Results) -> str | None:
    """Return what gain over the best floor the test set would detect at all."""
    gain = best_floor_gain(results)
    if gain is None:
        return None
    return (
        f"On these examples a gain of {points(gain.metric, gain.detectable)} over {gain.against} would be detected "
        "four times in five; smaller ones may go unseen."
    )


def opening_words(results: Results) -> str | None:
    """Return how often the test split had been opened before."""
    if results.opening is None:
        return None
    if results.opening == 0:
        return "The test split had never been opened before."
    return (
        f"The test split had been opened {times(results.opening)} before: each look makes a lucky result more likely."
    )


def score(results: Results, error: float | None) -> str:
    """Return an error that the search minimised as the metric it came from."""
    if error is None:
        return NONE
    return amount(results.metric, score_value(results, error))


def score_value(results: Results, error: float) -> float:
    """Return the metric of an error that the search minimised."""
    return 1 - error if results.higher_is_better else error


def flat_settings(values: Mapping[str, Any], *, leave: frozenset[str] = frozenset({"kind"})) -> str:
    """Return settings on one line: ``dim 64, depth 2, attention dot_product``."""
    found: list[str] = []
    # JSON keeps no order of names: plain settings first, then those with parts, each by name.
    for name, value in sorted(values.items(), key=lambda item: (isinstance(item[1], Mapping), item[0])):
        if name in leave or value is None:
            continue
        if isinstance(value, Mapping):
            inner = flat_settings(value)
            kind = value.get("kind", "")
            found.append(f"{_spaced(name)} {kind}".rstrip() + (f" ({inner})" if inner else ""))
        elif isinstance(value, bool):
            found.append(_spaced(name) if value else f"no {_spaced(name)}")
        elif isinstance(value, list | tuple):
            found.append(f"{_spaced(name)} {', '.join(str(item) for item in value)}")
        else:
            found.append(f"{_spaced(name)} {value:g}" if isinstance(value, float) else f"{_spaced(name)} {value}")
    return ", ".join(found)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _claim(results: Results, value: str, where: str) -> str:
    if results.metric == "accuracy":
        return f"The winner is right on {value} of {where}"
    return f"The winner's {metric_words(results.metric)} on {where} is {value}"


def _against(gain: Gain) -> str:
    size = Gain(
        against=gain.against,
        metric=gain.metric,
        gain=Interval(value=abs(gain.gain.value), low=-gain.gain.high, high=-gain.gain.low),
        verdict=gain.verdict,
        detectable=gain.detectable,
    )
    if gain.verdict == "better":
        return f"it beats the best floor, {gain.against}, by {gain_interval(gain)}: better."
    if gain.verdict == "worse":
        return f"it is behind the best floor, {gain.against}, by {gain_interval(size)}: worse."
    return f"its gain over the best floor, {gain.against}, is {gain_interval(gain)}: no difference that can be shown."
