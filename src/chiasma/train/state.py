"""Everything about a training that a checkpoint must hold beside tensors, as plain JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec
from chiasma.train.schedule import PlateauState

Row = dict[str, float]


class Identity(Spec):
    """What a training is of; a checkpoint continues only the training it was made by."""

    design: str
    seed: int
    data: str
    fraction: float
    metric: str
    callbacks: tuple[str, ...]
    start: str | None = None

    def check(self, found: Mapping[str, Any], *, where: str) -> None:
        """Refuse a checkpoint of another training.

        Args:
            found: The identity in the checkpoint.
            where: The checkpoint, for the message.

        Raises:
            ConfigError: Names what differs, and both values.
        """
        wanted = self.to_dict()
        differing = [
            f"{name} is {found.get(name)!r} there and {wanted[name]!r} here"
            for name in wanted
            if found.get(name) != wanted[name]
        ]
        if differing:
            raise ConfigError(
                f"{where} belongs to another training: {'; '.join(differing)}. "
                "Use the same arguments, or another folder for checkpoints."
            )


@dataclass
class TrainingState:
    """Where a training is.

    Attributes:
        step: Steps taken.
        history: One row for each evaluation on ``steer``.
        best: The row of the best evaluation.
        best_edits: How many edits the model had then.
        stale: Evaluations since the best one.
        plateau: State of a plateau schedule.
        loss_sum: Sum of train losses since the last evaluation.
        loss_steps: Their count.
        edits: What callbacks changed in the model, in order: callback, edit and step.
        factors: Learning-rate factors of parts of the model.
        regulation: What callbacks have set (:class:`chiasma.train.regulation.Regulation`); empty for nothing.
        best_regulation: What was set at the best evaluation.
        callbacks: State of each callback, by name.
        scaler: State of the float16 loss scaler.
        seconds: Training time so far, over all sittings.
        stopped: Why the training ended for good; None while it may continue.
    """

    step: int = 0
    history: list[Row] = field(default_factory=list)
    best: Row | None = None
    best_edits: int = 0
    stale: int = 0
    plateau: PlateauState = field(default_factory=PlateauState)
    loss_sum: float = 0.0
    loss_steps: int = 0
    edits: list[dict[str, Any]] = field(default_factory=list)
    factors: dict[str, float] = field(default_factory=dict)
    regulation: dict[str, Any] = field(default_factory=dict)
    best_regulation: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: str | None = None

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "plateau": self.plateau.to_dict()}

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "TrainingState":
        """Return what :meth:`to_document` wrote."""
        return TrainingState(**{**document, "plateau": PlateauState.from_dict(document["plateau"])})
