"""What a training came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chiasma.model.multimodal import MultimodalModel
from chiasma.train.state import Row


@dataclass(frozen=True)
class Fit:
    """A training that ended.

    Attributes:
        model: In evaluation mode, with the weights that are to be used.
        history: One row for each evaluation on ``steer``: step, epoch, rate, train_loss and every metric; none where
            the design trains on ``steer``.
        steps: Steps taken.
        seconds: Training time over all sittings.
        stopped: ``finished``, ``early``, ``deadline``, ``interrupted``, or the reason a callback gave.
        best: The row of the best evaluation; empty where the end came before the first.
        callbacks: The state of each callback at the end, by name.
    """

    model: MultimodalModel
    history: list[Row]
    steps: int
    seconds: float
    stopped: str
    best: Row
    callbacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
