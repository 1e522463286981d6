"""Who is born, and what it inherits."""

import numpy as np
import pytest

from chiasma.adapt.lifecycle import KINDS, Add, Life, Promote, Prune
from chiasma.adapt.measure import Measured
from chiasma.adapt.strategist import Birth, at_random, conceive, perturbed, worst_cluster
from chiasma.model.components import members
from chiasma.model.trunk import PopulationSpec
from chiasma.model.trunk.members import ConvolutionMemberSpec, PerceptronSpec, TransformerMemberSpec
from chiasma.train.design import GrowthSpec

SPEC = PopulationSpec()
LIVES = [
    Life(name="residual_convolution_1", kind="residual_convolution", contributions=(0.1,)),
    Life(name="perceptron_1", kind="perceptron", contributions=(0.7,)),
    Life(name="transformer_1", kind="transformer", contributions=(0.2,)),
]


def measured(rng: np.random.Generator) -> Measured:
    states = np.concatenate([rng.normal(0, 0.1, (60, 2)), rng.normal(5, 0.1, (20, 2)), rng.normal(-5, 0.1, (20, 2))])
    shared = np.concatenate([np.zeros(60), np.full(20, 2.0), np.full(20, 1.0)])
    return Measured(1.0, {}, {}, {}, (), (), states, shared)


def birth(seed: int, cooldown=None, **rules) -> Birth:
    rng = np.random.default_rng(seed)
    return conceive(
        LIVES,
        SPEC,
        measured(rng),
        GrowthSpec.from_dict(rules),
        cooldown=cooldown or {},
        dim=16,
        named=[life.name for life in LIVES],
        rng=rng,
    )


def test_every_kind_of_member_can_be_born():
    assert set(KINDS) == {member.model_fields["kind"].default for member in members("member")}
    assert {birth(seed, exploit=0.0).place.member.kind for seed in range(40)} == set(KINDS)


def test_a_specialist_is_bred_from_a_good_parent_and_learns_from_the_worst_errors():
    born = birth(1, exploit=1.0)
    assert born.place.parent in [life.name for life in LIVES]
    assert born.place.role == "newcomer"
    assert born.place.emphasis == 1.0
    assert born.centre == pytest.approx((5, 5), abs=0.2)
    assert "examples with" in born.reason


def test_better_parents_are_chosen_more_often_the_colder_the_more():
    def of_the_best(temperature: float) -> float:
        return np.mean(
            [birth(seed, exploit=1.0, temperature=temperature).place.parent == "perceptron_1" for seed in range(60)]
        )

    assert of_the_best(0.01) == 1
    assert 0.2 < of_the_best(5.0) < 0.6


def test_a_kind_that_cools_down_is_neither_tried_nor_bred_from():
    cooling = {"perceptron": 2, "transformer": 1}
    assert {birth(seed, cooldown=cooling).place.member.kind for seed in range(20)} == {"residual_convolution"}


def test_without_emphasis_a_specialist_learns_from_all_alike():
    born = birth(1, exploit=1.0, emphasis=0.0)
    assert born.centre is None
    assert born.place.emphasis == 0


def test_no_name_is_given_twice():
    assert birth(1, exploit=1.0).name.endswith("_2") or birth(1, exploit=1.0).name == "residual_convolution_1"


@pytest.mark.parametrize(
    "parent",
    [PerceptronSpec(), TransformerMemberSpec(heads=2), TransformerMemberSpec(heads=16), ConvolutionMemberSpec()],
)
def test_a_perturbed_member_is_near_its_parent_and_valid(parent):
    for seed in range(30):
        child = perturbed(parent, dim=16, rng=np.random.default_rng(seed))
        assert child.kind == parent.kind
        assert type(child).from_dict(child.to_dict()) == child
        assert abs(child.dropout - parent.dropout) <= 0.1 + 1e-9
        changed = {name for name in type(child).model_fields if getattr(child, name) != getattr(parent, name)}
        assert len(changed) == 2
        child.build(16)


def test_few_errors_are_no_cluster():
    rng = np.random.default_rng(0)
    shared = np.zeros(100)
    shared[:5] = 1
    assert worst_cluster(rng.normal(size=(100, 3)), shared, rng) is None


def test_errors_that_are_all_alike_are_one_cluster():
    rng = np.random.default_rng(0)
    shared = np.r_[np.ones(20), np.zeros(80)]
    found = worst_cluster(np.zeros((100, 3)), shared, rng)
    assert found is not None
    assert (found.count, found.part) == (20, 1.0)
    assert found.radius > 0


def test_at_random_members_come_go_and_are_promoted_whatever_they_are_worth():
    rules, rng = GrowthSpec(largest=3, probation=2), np.random.default_rng(0)
    newcomer = Life(name="perceptron_2", kind="perceptron", role="newcomer", gains=(-1.0,))
    assert at_random([*LIVES[:2], newcomer], rules, progress=0.1, rng=rng) is None
    older = newcomer.model_copy(update={"gains": (-1.0, -1.0)})
    assert isinstance(at_random([*LIVES[:2], older], rules, progress=0.1, rng=rng), Promote)
    assert isinstance(at_random(LIVES[:2], rules, progress=0.1, rng=rng), Add)
    assert isinstance(at_random(LIVES, rules, progress=0.1, rng=rng), Prune)
    assert at_random(LIVES, rules, progress=0.9, rng=rng) is None
