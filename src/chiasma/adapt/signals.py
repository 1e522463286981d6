"""What a controller sees of a training: plain numbers, none of which leads back to the model's graph."""

import math
from collections.abc import Mapping, Sequence

from chiasma.adapt.controls import NAMES, STRUCTURE
from chiasma.adapt.slopes import PARTS, WHOLE, Slope
from chiasma.train.callbacks import Moment

SLOPES = (WHOLE, *PARTS)
MEASURED = ("train_loss", "train_trend", "gradient_norm", "steer_loss", "steer_trend")
SEEN = ("steer_level", "rate", "schedule", "progress", "reward")
FELT = tuple(name for name in NAMES if name != STRUCTURE)
INPUTS = (*(f"slope_{name}" for name in SLOPES), *MEASURED, *SEEN, *(f"at_{name}" for name in FELT))
"""The names of all inputs, in their order."""

# Beyond so many standard deviations, more says no more.
FARTHEST = 5.0
# Statistics follow about so many of the last values.
MEMORY = 100
SMALL = 1e-6
# Learning rates are told as orders of magnitude from here.
USUAL_RATE = 1e-3


class Normaliser:
    """Mean and spread of what was seen, by name; the spread of the newest hundred values counts.

    Args:
        known: What :meth:`to_dict` returned.
    """

    def __init__(self, known: Mapping[str, Sequence[float]] | None = None) -> None:
        self._known = {name: [float(each) for each in values] for name, values in (known or {}).items()}

    def __call__(self, name: str, value: float) -> float:
        """Return a value in standard deviations from the mean, within bounds, after taking note of it."""
        if not math.isfinite(value):
            return FARTHEST
        count, mean, square = self._known.get(name, [0.0, 0.0, 0.0])
        count = min(count + 1, float(MEMORY))
        move = value - mean
        mean += move / count
        square += (move * (value - mean) - square) / count
        self._known[name] = [count, mean, square]
        return bounded((value - mean) / math.sqrt(square + SMALL))

    def to_dict(self) -> dict[str, list[float]]:
        """Return count, mean and mean square by name."""
        return {name: list(values) for name, values in self._known.items()}


class Smoothed:
    """A moving average of the train loss with its usual deviation.

    Args:
        known: What :meth:`to_dict` returned.
    """

    def __init__(self, known: Mapping[str, float] | None = None) -> None:
        values = known or {}
        self.value = float(values.get("value", 0.0))
        self.deviation = float(values.get("deviation", 0.0))
        self.count = int(values.get("count", 0))

    def add(self, loss: float) -> None:
        """Take a step's loss."""
        self.count += 1
        weight = 1 / min(self.count, 10)
        self.deviation += weight * (abs(loss - self.value) - self.deviation) if self.count > 1 else 0.0
        self.value += weight * (loss - self.value)

    def to_dict(self) -> dict[str, float]:
        """Return everything."""
        return {"value": self.value, "deviation": self.deviation, "count": self.count}


def signals(
    moment: Moment,
    *,
    slopes: Mapping[str, Slope],
    loss: float,
    trend: float,
    train: tuple[float, float],
    level: float,
    peak: float,
    reward: float,
    settings: Mapping[str, float],
    normalise: Normaliser,
) -> list[float]:
    """Return the inputs of one decision, in the order of :data:`INPUTS`.

    Args:
        moment: The step.
        slopes: Of each part, over the last interval.
        loss: Just measured on steer.
        trend: By how much its logarithm has risen since the last decision.
        train: The smoothed train loss, now and at the last decision.
        level: Loss of the best answer that is the same for all rows of steer.
        peak: The design's learning rate.
        reward: Of the last action.
        settings: In use, by name.
        normalise: Takes note of what has no natural size.
    """
    now, before = (logarithm(value) for value in train)
    measured = (now, now - before, logarithm(moment.gradient_norm), logarithm(loss), trend)
    seen = (
        loss / max(level, SMALL) - 1 if math.isfinite(loss) else FARTHEST,
        math.log10(max(moment.rate, SMALL**2) / USUAL_RATE),
        moment.rate / peak,
        moment.step / moment.total_steps,
        reward,
    )
    return [
        *(slopes[name].cosine if name in slopes else 0.0 for name in SLOPES),
        *(normalise(name, value) for name, value in zip(MEASURED, measured, strict=True)),
        *(bounded(value) for value in seen),
        *(settings.get(name, 0.0) for name in FELT),
    ]


def logarithm(value: float) -> float:
    """Return the logarithm of a loss or norm; of nothing that of almost nothing."""
    return math.log(max(value, SMALL)) if math.isfinite(value) else math.inf


def bounded(value: float) -> float:
    """Return a value within the bounds of an input."""
    return min(FARTHEST, max(-FARTHEST, value))
