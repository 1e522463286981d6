"""What is left of one training, wherever it ran."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasma.adapt.callbacks import told
from chiasma.adapt.controller import NAME as CONTROLLER
from chiasma.adapt.kept import growth_of
from chiasma.core.errors import DataError
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.evaluate.jailed_model import JailedModel
from chiasma.model.cost import cost
from chiasma.model.multimodal import MultimodalModel
from chiasma.train.design import Design
from chiasma.train.devices import Precision
from chiasma.train.fit import Fit
from chiasma.train.predicting import predict_logits


@dataclass(frozen=True)
class Ended:
    """A training that ended.

    Attributes:
        model: With the weights that are to be used.
        design: As the training left it.
        logits: What the model says of ``select`` ``[n C]``.
        stopped: As in :class:`Fit`.
        history: One row for each evaluation on ``steer``.
        growth: How its trunk grew.
        controller: What its controller did.
        notes: What else a reader must know of it.
    """

    model: MultimodalModel | JailedModel
    design: Design
    logits: np.ndarray
    steps: int
    seconds: float
    stopped: str
    history: tuple[Mapping[str, float], ...]
    growth: Mapping[str, Any]
    controller: Mapping[str, Any]
    parameters: int
    flops: float
    notes: tuple[str, ...] = ()


def ended(fit: Fit, design: Design, dataset: Dataset, *, precision: Precision) -> Ended:
    """Return what is left of a training in this process.

    Raises:
        DataError: There is no select split to measure it on.
    """
    check_measurable(dataset)
    size = cost(fit.model.spec, dataset.signature)
    return Ended(
        model=fit.model,
        design=replace_at(design, "model", fit.model.spec),
        logits=predict_logits(fit.model, dataset, dataset.rows("select"), precision=precision),
        steps=fit.steps,
        seconds=fit.seconds,
        stopped=fit.stopped,
        history=tuple(fit.history),
        growth=growth_of(fit, design.training.loop, dataset, precision=precision),
        controller=told(fit.callbacks.get(CONTROLLER, {})),
        parameters=size.parameters,
        flops=size.flops,
    )


def check_measurable(dataset: Dataset) -> None:
    """Refuse data without a select split.

    Raises:
        DataError: There is none.
    """
    if not len(dataset.rows("select")):
        raise DataError("The data have no select split, so the model cannot be measured; raise data.select_fraction.")
