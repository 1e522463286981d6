"""What is said of an example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chiasma.core.spec import Spec

OneAnswer = str | float | tuple[str, ...] | tuple[float, ...]


class Answer(Spec):
    """A prediction for one example.

    Attributes:
        prediction: A label, labels, or numbers; of several tasks each one's.
        scores: Calibrated probability of each label; of quantities the values.
    """

    prediction: OneAnswer | Mapping[str, OneAnswer]
    scores: Mapping[str, float]

    @property
    def words(self) -> str:
        """Return the prediction as text."""
        return prediction_words(self.prediction)


@dataclass(frozen=True)
class PredictedRow:
    """One row of a manifest.

    Attributes:
        answer: None where the row could not be read.
        error: Why not; None where it could.
        content: Hash of what the row shows.
        label: What stands in its label column, if there is one; for the checks alone.
    """

    id: str
    answer: Answer | None
    error: str | None = None
    content: bytes = b""
    label: Any = None


def prediction_words(prediction: Any) -> str:
    """Return a prediction as one cell of text; several labels are joined by ``|``, several tasks by ``;``."""
    if isinstance(prediction, Mapping):
        return "; ".join(f"{name}: {prediction_words(each)}" for name, each in prediction.items())
    if isinstance(prediction, tuple):
        return "|".join(prediction_words(item) for item in prediction)
    return f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)


def said_by(answer: Answer) -> list[tuple[str, OneAnswer]]:
    """Return the predictions by the name of their task, which is empty where there is one."""
    return list(answer.prediction.items()) if isinstance(answer.prediction, Mapping) else [("", answer.prediction)]
