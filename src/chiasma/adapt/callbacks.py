"""The callbacks that a design asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasma.adapt.controller import Controller
from chiasma.adapt.growth import Growth
from chiasma.adapt.hypergradient import FollowHypergradient
from chiasma.adapt.learned import Knowledge, knowledge_for
from chiasma.data.dataset import Dataset
from chiasma.store.checkpoint import any_saved
from chiasma.train.callbacks import Callback
from chiasma.train.controlling import LSTMController
from chiasma.train.design import Design
from chiasma.train.devices import Precision


def callbacks_of(
    design: Design,
    data: Dataset,
    *,
    seed: int,
    precision: Precision = "float32",
    known: Knowledge | None = None,
    checkpoints: Path | None = None,
) -> list[Callback]:
    """Return what changes a model while it trains, as its design says; to be given to the trainer.

    Args:
        design: What is trained.
        data: On what.
        seed: Of the training.
        precision: Of matrix products.
        known: What a controller begins with; None for what the design names.
        checkpoints: The trainer's own. One of them holds the whole controller, so that what the design names is read
            by trainings that begin, and may be moved or learned again before others go on.

    Raises:
        ConfigError: The controller that the design begins with is another one, or does not fit it; or it has nothing to
            set.
        StorageError: There is no such controller.
    """
    found: list[Callback] = []
    controller = design.training.controller
    if isinstance(controller, LSTMController):
        begins = known is None and not (checkpoints is not None and any_saved(checkpoints))
        begin = knowledge_for(controller) if begins else known
        found.append(Controller(controller, design, data, seed=seed, precision=precision, known=begin))
    elif controller is not None:
        found.append(FollowHypergradient(controller))
    growth = design.training.growth
    if growth is not None:
        urging = next((each for each in found if isinstance(each, Controller)), None)
        found.append(Growth(growth, data, seed=seed, precision=precision, urging=urging))
    return found


def told(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report tells of a controller: its curve, its roll-backs and its cost; nothing where there was none.

    Args:
        state: What the controller's ``state_dict`` returned, or nothing.
    """
    return {name: state[name] for name in ("trace", "returns", "seconds", "every") if name in state}
