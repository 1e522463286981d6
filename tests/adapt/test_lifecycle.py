"""When a member is born, promoted and pruned."""

import numpy as np
import pytest

from chiasma.adapt.lifecycle import Add, Life, Promote, Prune, Retire, contributions, is_useless, review
from chiasma.core.errors import ConfigError
from chiasma.train.design import GrowthSpec

RULES = GrowthSpec(probation=2, longevity=4, worth=0.01, certainty=2.0, largest=4, smallest=2)


def life(name: str, *gains: float, error: float = 0.001, role="member", **known) -> Life:
    kind = name.rpartition("_")[0]
    errors, shares = (error,) * len(gains), (1.0,) * len(gains)
    return Life(
        name=name, kind=kind, role=role, gains=gains, errors=errors, shares=shares, contributions=gains, **known
    )


GOOD = life("perceptron_1", 0.2, 0.2, 0.2, 0.2)
FINE = life("transformer_1", 0.1, 0.1, 0.1, 0.1)
IDLE = life("perceptron_2", 0.0, 0.001, 0.0, -0.002)


def decided(*lives: Life, rules: GrowthSpec = RULES, progress: float = 0.1, cooldown=None):
    return review(lives, rules, progress=progress, cooldown=cooldown or {})


def test_a_member_that_was_useless_in_every_recent_review_is_pruned():
    found = decided(GOOD, FINE, IDLE)
    assert isinstance(found, Prune)
    assert found.name == "perceptron_2"
    assert found.reason == "in 4 reviews the loss rose by 0.0 % (± 0.1) without it"


def test_a_member_that_was_useful_once_lately_stays():
    once = life("perceptron_2", 0.0, 0.0, 0.05, 0.0)
    assert isinstance(decided(GOOD, FINE, once), Add)


def test_a_member_whose_use_is_uncertain_stays():
    unsure = life("perceptron_2", 0.0, 0.0, 0.0, 0.0, error=0.02)
    assert isinstance(decided(GOOD, FINE, unsure), Add)


def test_a_young_member_stays():
    young = life("perceptron_2", 0.0, 0.0, 0.0)
    assert not is_useless(young, RULES)


def test_the_fewest_members_are_never_pruned():
    assert isinstance(decided(GOOD, IDLE), Add)


def test_of_several_useless_members_the_one_that_contributes_least_goes():
    worse = life("transformer_2", 0.0, 0.0, 0.0, -0.005)
    found = decided(GOOD, FINE, IDLE, worse)
    assert isinstance(found, Prune)
    assert found.name == "transformer_2"


def test_with_lessons_a_member_teaches_before_it_goes():
    rules = RULES.model_copy(update={"lessons": True})
    assert isinstance(decided(GOOD, FINE, IDLE, rules=rules), Retire)
    leaving = IDLE.model_copy(update={"role": "leaving"})
    found = decided(GOOD, FINE, leaving, rules=rules)
    assert isinstance(found, Prune)


def test_a_newcomer_is_promoted_once_it_certainly_helps():
    newcomer = life("perceptron_3", 0.01, 0.02, role="newcomer")
    assert decided(GOOD, FINE, newcomer) == Promote("perceptron_3", "without it the loss rises by 1.5 % (± 0.1)")


def test_a_newcomer_is_given_its_probation_however_good_it_looks():
    assert decided(GOOD, FINE, life("perceptron_3", 0.5, role="newcomer")) is None


def test_a_newcomer_is_waited_for_while_it_is_uncertain_and_then_goes():
    waiting = life("perceptron_3", 0.0, 0.0, 0.0, role="newcomer")
    assert decided(GOOD, FINE, waiting) is None
    failed = life("perceptron_3", 0.0, 0.0, 0.0, 0.0, role="newcomer")
    found = decided(GOOD, FINE, failed)
    assert isinstance(found, Prune)
    assert "after 4 reviews" in found.reason


def test_nobody_is_born_while_a_newcomer_waits_nor_beyond_the_largest_population_nor_late():
    others = [life(f"perceptron_{n}", 0.2, 0.2, 0.2, 0.2) for n in range(3, 5)]
    assert decided(GOOD, FINE, life("perceptron_3", 0.1, role="newcomer")) is None
    assert decided(GOOD, FINE, *others) is None
    assert decided(GOOD, FINE, progress=0.71) is None
    assert isinstance(decided(GOOD, FINE, progress=0.7), Add)


def test_nobody_is_born_while_all_kinds_cool_down():
    cooling = {"perceptron": 1, "transformer": 2, "residual_convolution": 1}
    assert decided(GOOD, FINE, cooldown=cooling) is None
    assert isinstance(decided(GOOD, FINE, cooldown={"perceptron": 1}), Add)


@pytest.mark.parametrize("error", [0.0005, 0.001, 0.004])
@pytest.mark.parametrize("gain", [-0.01, 0.0, 0.003, 0.009, 0.01, 0.02])
@pytest.mark.parametrize("certainty", [0.0, 2.0])
def test_whoever_is_promoted_is_not_pruned_on_the_same_figures(gain: float, error: float, certainty: float):
    rules = RULES.model_copy(update={"certainty": certainty})
    newcomer = life("perceptron_3", *[gain] * rules.probation, error=error, role="newcomer")
    promoted = isinstance(decided(GOOD, FINE, newcomer, rules=rules), Promote)
    later = life("perceptron_3", *[gain] * 20, error=error, promoted=rules.probation)
    assert not (promoted and is_useless(later, rules))
    assert promoted == (gain >= rules.worth and gain > certainty * error)


def test_a_gain_that_is_certain_but_small_is_no_reason_to_promote():
    newcomer = life("perceptron_3", 0.003, 0.003, error=0.001, role="newcomer")
    assert decided(GOOD, FINE, newcomer) is None


def test_what_somebody_was_as_a_newcomer_does_not_count_for_its_end():
    as_member = {"role": "member", "born": 3, "promoted": 5}
    young = life("perceptron_3", *[0.0] * 5, **as_member)
    assert young.reviews_as_member == 3
    assert not is_useless(young, RULES)
    assert is_useless(life("perceptron_3", *[0.0] * 6, **as_member), RULES)
    assert life("perceptron_1", *[0.0] * 4, promoted=0).reviews_as_member == 4


def test_contributions_are_moving_averages_of_weights_and_of_what_the_loss_rises():
    rules = RULES.model_copy(update={"memory": 0.25})
    first = life("a_1", 0.3).model_copy(update={"contributions": (0.2,), "shares": (1.5,)})
    second = life("b_1", -0.1).model_copy(update={"contributions": (), "shares": (0.5,)})
    found = contributions([first, second], rules)
    assert found["a_1"] == pytest.approx(0.25 * 0.2 + 0.75 * (0.5 * 0.75 + 0.5 * 1.0))
    assert found["b_1"] == pytest.approx(0.5 * 0.25)


def test_contributions_are_finite_where_nobody_counts():
    found = contributions([life("a_1", 0.0).model_copy(update={"shares": (0.0,), "contributions": ()})], RULES)
    assert found == {"a_1": 0.0}


def test_rules_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="smallest=7, largest=6"):
        GrowthSpec.from_dict({"smallest": 7})
    with pytest.raises(ConfigError, match="probation=5 and longevity=4"):
        GrowthSpec.from_dict({"probation": 5})


@pytest.mark.parametrize("effect", [0.02, 0.05])
def test_a_useful_member_is_never_taken_for_useless_by_noise(effect: float):
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        # Reviews of one split share most of their noise: the worst case is that they share all of it.
        noise = rng.normal(0, 0.01)
        wrong += is_useless(life("a_1", *[effect + noise] * 4, error=0.01), RULES)
    # Two standard errors on the wrong side of the bound: 0.13 % for the smaller effect.
    assert wrong <= 10
