import pytest

from chiasma.core.rng import numpy_rng
from chiasma.core.spec import replace_at
from chiasma.model.attention import Mean
from chiasma.model.cost import cost
from chiasma.model.graph.attention import GraphAttention
from chiasma.model.multimodal import ModelSpec
from chiasma.model.slot_cost import SlotCosts
from chiasma.search.attention_space import AttentionSpace
from tests.contracts.inputs import signature

MODEL = ModelSpec.from_dict(
    {
        "dim": 16,
        "encoders": {"image": {"kind": "vit", "depth": 2}, "text": {"kind": "bert", "depth": 1}},
        "fusion": {"kind": "cross_attention", "depth": 2},
    }
)


@pytest.mark.parametrize("slot", ["encoders.image", "encoders.text", "fusion"])
def test_counting_one_slot_gives_what_counting_the_whole_model_gives(slot):
    space, counted = AttentionSpace(f"{slot}.attention", crossed=slot == "fusion"), SlotCosts(MODEL, slot, signature())
    mechanisms = [space.sample(numpy_rng(0, slot, number)) for number in range(8)]
    for attention in [GraphAttention(), Mean(), *mechanisms]:
        whole = cost(replace_at(MODEL, f"{slot}.attention", attention), signature())
        found = counted(attention)
        assert found.flops == pytest.approx(whole.flops, rel=1e-12)
        assert (found.parameters, found.uncounted) == (whole.parameters, whole.uncounted)
