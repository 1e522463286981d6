"""With which attention a transformer is born: its parent's, or one that the model has already."""

import numpy as np
import pytest

from chiasma.adapt.growth import Growth
from chiasma.adapt.strategist import conceive, perturbed
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.model.attention import AttentionSpec, DotProduct, Mean
from chiasma.model.graph.known import KNOWN
from chiasma.model.kernel import Projections
from chiasma.model.mechanisms import mechanisms_of
from chiasma.model.multimodal import ModelSpec
from chiasma.model.trunk.members import TransformerMemberSpec
from tests.adapt.test_growth import claims, growing, trainer
from tests.adapt.test_strategist import LIVES, SPEC, GrowthSpec, measured

__all__ = ["claims"]
DISCOVERED = {"kind": "graph", "graph": KNOWN[0].graph.to_dict()}


def model_with(attention: object) -> ModelSpec:
    return replace_at(growing().model, "fusion.attention", attention)


def born_at_random(seed: int, mechanisms: list[AttentionSpec]):
    rng = np.random.default_rng(seed)
    rules, named = GrowthSpec(exploit=0.0), [life.name for life in LIVES]
    return conceive(LIVES, SPEC, measured(rng), rules, cooldown={}, dim=16, named=named, rng=rng, mechanisms=mechanisms)


def test_a_model_tells_its_mechanisms_wherever_they_stand_each_once():
    assert mechanisms_of(growing().model) == [DotProduct()]
    bare = DotProduct(projections=Projections(o=False))
    spec = replace_at(model_with(DISCOVERED), "encoders.text.attention", Mean())
    spec = replace_at(spec, "trunk.members.transformer_1.member.attention", bare)
    assert [each.kind for each in mechanisms_of(spec)] == ["dot_product", "mean", "graph", "dot_product"]
    assert mechanisms_of(replace_at(spec, "trunk", None)) == mechanisms_of(spec)[:3]


def test_a_transformer_at_random_is_born_with_any_mechanism_that_the_model_has():
    found = mechanisms_of(model_with(DISCOVERED))
    births = [born_at_random(seed, found) for seed in range(60)]
    born = [birth for birth in births if birth.place.member.kind == "transformer"]
    assert {birth.place.member.attention.kind for birth in born} == {"dot_product", "graph"}
    for birth in born:
        assert birth.reason.endswith("with graph attention") == (birth.place.member.attention.kind == "graph")
        birth.place.member.build(16)
    assert {birth.reason for birth in births if birth not in born} == {"a kind at random"}


def test_where_all_attention_is_plain_who_is_born_is_as_without_a_choice():
    assert [born_at_random(seed, [DotProduct()]) for seed in range(9)] == [born_at_random(s, []) for s in range(9)]


@pytest.mark.parametrize("attention", [Mean(), model_with(DISCOVERED).fusion.attention])
def test_a_specialist_inherits_the_attention_of_its_parent(attention: AttentionSpec):
    parent = TransformerMemberSpec(heads=2, attention=attention)
    assert perturbed(parent, dim=16, rng=np.random.default_rng(0)).attention == attention


def test_while_a_model_trains_a_transformer_is_born_with_the_fusions_mechanism(claims: Dataset):
    design = growing(births="random", largest=9, probation=1, learned=0.0, last_birth=1.0)
    design = replace_at(design, "model", model_with({"kind": "mean"}))
    running = trainer(replace_at(design, "training.loop.evaluations", 28), claims)
    running.fit()
    growth = running.callbacks["growth"]
    assert isinstance(growth, Growth)
    reasons = {event["reason"] for event in growth.events if event["event"] == "birth"}
    assert "a kind at random with mean attention" in reasons
