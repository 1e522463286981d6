"""The callbacks that a design asks for."""

from chiasma.adapt.growth import Growth
from chiasma.data.dataset import Dataset
from chiasma.train.callbacks import Callback
from chiasma.train.design import Design
from chiasma.train.devices import Precision


def callbacks_of(design: Design, data: Dataset, *, seed: int, precision: Precision = "float32") -> list[Callback]:
    """Return what changes a model while it trains, as its design says; to be given to the trainer."""
    growth = design.training.growth
    return [] if growth is None else [Growth(growth, data, seed=seed, precision=precision)]
