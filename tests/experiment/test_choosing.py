"""What is shipped: the best on select, but not on the strength of luck."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chiasma.core.outcome import Scored
from chiasma.data.signature import Target
from chiasma.experiment.choosing import choose
from chiasma.experiment.finals import ArmDesign, TrainedArm, Training

ROWS = 400
TARGET = Target(task="classification", labels=("no", "yes"))
LABELS = np.arange(ROWS) % 2


def data(groups: int = ROWS) -> SimpleNamespace:
    """Return what choosing reads of a dataset."""
    rows = np.arange(ROWS)
    return SimpleNamespace(
        rows=lambda split: rows,
        labels=lambda some: torch.from_numpy(LABELS[some]),
        groups=lambda some: some % groups,
        signature=SimpleNamespace(target=TARGET),
        target_scale=None,
    )


@pytest.fixture
def arm(tmp_path):
    def make(number: int, role: str, wrong: slice) -> TrainedArm:
        said = LABELS.copy()
        said[wrong] = 1 - said[wrong]
        folder = tmp_path / str(number)
        folder.mkdir()
        np.savez(folder / "select.npz", logits=np.eye(2)[said], rows=np.arange(ROWS))
        error = float((said != LABELS).mean())
        outcome = Scored(objectives={"error": error})
        design = ArmDesign(f"{role} {number}", role, "", number, None)  # type: ignore[arg-type]
        return TrainedArm(design, (Training(folder, 0, outcome, 1.0),))

    return make


def test_a_clear_lead_is_shipped(arm):
    best, floor = arm(1, "finalist", slice(0, 20)), arm(2, "floor", slice(0, 80))
    assert choose([floor, best], data(), metric="accuracy") is best


def test_a_lead_within_one_standard_error_is_luck_and_the_floor_is_shipped(arm):
    best, floor = arm(1, "finalist", slice(0, 78)), arm(2, "floor", slice(40, 120))
    assert best.error < floor.error
    assert choose([best, floor], data(), metric="accuracy") is floor


def test_the_error_counts_groups_not_rows(arm):
    best, floor = arm(1, "finalist", slice(0, 60)), arm(2, "floor", slice(0, 80))
    assert choose([best, floor], data(), metric="accuracy") is best
    # The same lead, but all twenty rows are in one of twenty groups.
    clustered = data()
    clustered.groups = lambda some: some // 20
    assert choose([best, floor], clustered, metric="accuracy") is floor


def test_without_floors_or_without_groups_the_lowest_error_is_shipped(arm):
    best, other, floor = (
        arm(1, "finalist", slice(0, 78)),
        arm(2, "control", slice(0, 80)),
        arm(3, "floor", slice(0, 79)),
    )
    assert choose([other, best], data(), metric="accuracy") is best
    assert choose([floor, best], data(groups=1), metric="accuracy") is best
