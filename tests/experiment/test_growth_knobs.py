"""Law 8: no rule of growth and no setting of the trunk is dead."""

import pytest
import torch

from chiasma.data.dataset import Dataset
from chiasma.model.trunk import PopulationSpec
from chiasma.train.design import GrowthSpec
from tests.experiment.growth_knobs import DIM, RULES, TRUNK
from tests.train.conftest import claims

__all__ = ["claims"]


def test_every_rule_and_every_setting_of_the_trunk_says_how_it_is_seen():
    assert list(RULES) == list(GrowthSpec.model_fields)
    assert list(TRUNK) == [name for name in PopulationSpec.model_fields if name != "kind"]


@pytest.mark.parametrize("name", RULES)
def test_changing_a_rule_of_growth_changes_something(claims: Dataset, name: str):
    knob = RULES[name]
    first, second, again = (
        knob.of(GrowthSpec.from_dict({**knob.base, name: value}), claims) for value in (*knob.values, knob.values[0])
    )
    assert first != second
    assert first == again


@pytest.mark.parametrize("name", TRUNK)
def test_changing_a_setting_of_the_trunk_changes_something(name: str):
    knob = TRUNK[name]

    def found(value: object) -> object:
        torch.manual_seed(0)
        return knob.of(PopulationSpec.from_dict({**knob.base, name: value}).build(DIM))

    first, second, again = (found(value) for value in (*knob.values, knob.values[0]))
    assert first != second
    assert first == again
