"""The models that are compared at the end, whatever made them, with one way to get their outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from chiasma.data.dataset import Dataset
from chiasma.data.signature import Signature
from chiasma.evaluate.jailed_model import JailedModel, trained_model
from chiasma.experiment.calibration import Calibrator, fit_calibrator, judges_decisions
from chiasma.experiment.finals import TrainedArm
from chiasma.experiment.floors import ClassicalFloor
from chiasma.experiment.jail_terms import lesser_jail
from chiasma.experiment.results import Arm, Interval
from chiasma.experiment.statistics import Bootstrap, UndefinedMetricError
from chiasma.experiment.weighted_metrics import RANKED
from chiasma.model.multimodal import MultimodalModel
from chiasma.train.design import Design
from chiasma.train.devices import pick_device
from chiasma.train.initial import kept_training
from chiasma.train.metrics import measure, metrics_of, plain_name
from chiasma.train.predicting import predict_logits


@dataclass(frozen=True)
class Contestant:
    """An arm and its outputs on select, one training a seed.

    Attributes:
        select: Outputs on the select split ``[S n C]``.
        trained: Where its models lie, or None for a classical floor.
        classical: The fitted floor, or None.
    """

    name: str
    role: Literal["floor", "control", "finalist", "winner"]
    description: str
    dataset: Dataset
    metric: str
    select: np.ndarray
    trained: TrainedArm | None = None
    classical: ClassicalFloor | None = None

    @cached_property
    def calibrators(self) -> list[Calibrator]:
        """Return what is fitted on select for each seed: temperature and threshold."""
        labels = self.dataset.labels(self.dataset.rows("select")).numpy()
        target = self.dataset.signature.target
        return [fit_calibrator(logits, labels, target, metric=self.metric) for logits in self.select]

    @property
    def shipped(self) -> int:
        """Return which of the trainings is saved: the one with the lowest error on select."""
        return self.trained.trainings.index(self.trained.best) if self.trained else 0

    def outputs(self, rows: np.ndarray, *, device: str) -> np.ndarray:
        """Return raw outputs for any rows ``[S n C]``."""
        if self.classical is not None:
            return self.classical.logits(self.dataset, rows)[None]
        assert self.trained is not None
        models = [
            load_trained(training.folder, device=device, accept_lesser=bool(lesser_jail([training.outcome])))
            for training in self.trained.trainings
        ]
        return np.stack([predict_logits(model, self.dataset, rows) for model in models])

    def judged(self, outputs: np.ndarray, metric: str) -> np.ndarray:
        """Return outputs ``[S n C]`` as this metric must see them: thresholded for decisions, else calibrated."""
        decides = judges_decisions(metric)
        pairs = zip(self.calibrators, outputs, strict=True)
        return np.stack([c.decision_logits(logits) if decides else c.apply(logits) for c, logits in pairs])

    def select_metrics(self) -> dict[str, float]:
        """Return the metrics on select, averaged over seeds, without the threshold that was fitted there."""
        labels = self.dataset.labels(self.dataset.rows("select")).numpy()
        target = self.dataset.signature.target
        each = [measure(o, labels, target, target_scale=self.dataset.target_scale) for o in self.select]
        return {name: float(np.mean([row[name] for row in each])) for name in each[0]}

    def test_metrics(self, outputs: np.ndarray, bootstrap: Bootstrap) -> dict[str, Interval]:
        """Return the metrics on the test split with their intervals; undefined ones are left out.

        Areas under curves are slow to resample: only the winner has those that do not decide.
        """
        found: dict[str, Interval] = {}
        for metric in metrics_of(self.dataset.signature.target):
            if plain_name(metric) in RANKED and metric != self.metric and self.role != "winner":
                continue
            try:
                found[metric] = bootstrap.interval(self.judged(outputs, metric), metric)
            except UndefinedMetricError:
                continue
        return found

    def arm(self, test: Mapping[str, Interval]) -> Arm:
        """Return the line of the table."""
        measured = self.trained.best.outcome if self.trained else None
        sizes = {**measured.objectives, **measured.metrics} if measured else {}
        parameters = sizes.get("parameters")
        return Arm(
            name=self.name,
            role=self.role,
            description=self.description,
            candidate=self.trained.arm.candidate if self.trained else None,
            seeds=len(self.select),
            select=self.select_metrics(),
            test=test,
            parameters=int(parameters) if parameters is not None else None,
            flops=sizes.get("flops"),
            latency_seconds=sizes.get("latency"),
            seconds=sum(t.seconds for t in self.trained.trainings) if self.trained else self.classical_seconds,
            floor=self._shipped_floor,
        )

    @property
    def _shipped_floor(self) -> str | None:
        if self.role != "winner" or self.trained is None or self.trained.arm.role != "floor":
            return None
        return self.trained.arm.name

    @property
    def classical_seconds(self) -> float:
        """Return what fitting a classical floor cost."""
        return self.classical.seconds if self.classical else 0.0


def contestant_of(trained: TrainedArm, dataset: Dataset, *, metric: str, winner: bool) -> Contestant:
    """Return a trained arm with the predictions that its worker kept."""
    select = np.stack([kept_logits(training.folder) for training in trained.trainings])
    arm = trained.arm
    role = "winner" if winner else arm.role
    name = "winner" if winner else arm.name
    return Contestant(name, role, arm.description, dataset, metric, select, trained=trained)


def contestant_of_floor(floor: ClassicalFloor, dataset: Dataset, *, metric: str) -> Contestant:
    """Return a classical floor with its outputs on select."""
    select = floor.logits(dataset, dataset.rows("select"))[None]
    return Contestant(floor.name, "floor", floor.description, dataset, metric, select, classical=floor)


def kept_logits(folder: Path) -> np.ndarray:
    """Return the outputs on select ``[n C]`` that a worker kept."""
    with np.load(folder / "select.npz", allow_pickle=False) as file:
        return file["logits"]


def load_trained(folder: Path, *, device: str = "cpu", accept_lesser: bool = False) -> MultimodalModel | JailedModel:
    """Return the model that a worker kept, in evaluation mode; it answers from the jail where its source is unapproved.

    Args:
        folder: Where it is kept.
        device: For one whose source may run here.
        accept_lesser: As in :class:`JailedModel`.

    Raises:
        CorruptFileError: No checkpoint there verifies.
        FileNotFoundError: There is none.
    """
    checkpoint = kept_training(folder)
    design = Design.from_dict(checkpoint.documents["design"])
    model = trained_model(
        design.model,
        Signature.from_dict(checkpoint.documents["signature"]),
        checkpoint.tensors("model"),
        accept_lesser=accept_lesser,
    )
    return model.to(pick_device("cpu" if isinstance(model, JailedModel) else device)).eval()
