import pytest

from chiasma.core.outcome import Failed, Rejected, Scored
from chiasma.search.archive import SharedArchive
from chiasma.search.fusion_rewards import (
    Climbs,
    Parent,
    Penalty,
    RewardParts,
    RewardRules,
    on_offer,
    parent_of,
    reward_of,
)
from chiasma.search.protocols import Candidate, Evaluation


def evaluation_of(outcome):
    return Evaluation(Candidate("fusion", None, None), outcome, 0, 0, 1.0)


SCORED = Scored(objectives={"error": 0.25, "flops": 1e7, "latency": 0.01}, metrics={"auroc": 0.9, "parameters": 1e5})


def test_a_reward_is_the_metric_less_what_each_cost_takes_off():
    rules = RewardRules(parameters=Penalty(weight=0.01, free=1e4), latency=Penalty(weight=0.05, free=1e-3))
    parts = rules.parts(SCORED)
    assert parts.metric == 0.75
    assert parts.penalties == pytest.approx({"parameters": 0.01, "latency": 0.05})
    assert parts.reward == pytest.approx(0.69)
    assert RewardParts.from_json(parts.to_json()) == parts


def test_what_is_free_takes_nothing_off():
    assert RewardRules(flops=Penalty(weight=1.0, free=1e7)).parts(SCORED).reward == 0.75


def test_another_metric_can_be_rewarded():
    assert RewardRules(metric="auroc").parts(SCORED).reward == 0.9


def test_a_metric_that_was_not_measured_is_named_with_those_that_were():
    with pytest.raises(ValueError, match="The reward needs f1, but only auroc, error, flops, latency, parameters were"):
        RewardRules(metric="f1").parts(SCORED)


def test_no_reward_is_below_that_of_a_candidate_that_cannot_be_trained():
    rules = RewardRules(flops=Penalty(weight=5.0, free=1.0), lowest=0.1)
    assert rules.parts(SCORED).reward == rules.parts(Rejected(stage="probe", reason="no gradient")).reward == 0.1


def test_an_evaluation_that_was_rejected_anywhere_earns_the_lowest_and_our_failure_nothing(evaluated):
    good, diverged = evaluated(1, 0.2), evaluated(1, None, rung=1, rejected=True)
    failed = evaluated(1, None)
    assert isinstance(failed.outcome, Failed)
    assert reward_of([good, diverged], RewardRules()) == RewardParts(reward=0.0, invalid="train")
    assert reward_of([failed], RewardRules()) is None
    assert reward_of([failed, good], RewardRules()) == RewardParts(reward=0.8, metric=0.8)


def test_a_candidate_is_rewarded_for_what_it_reached_when_it_was_trained_longest(evaluated):
    found = [evaluated(1, 0.4), evaluated(1, 0.2, rung=1), evaluated(1, 0.1, rung=1, seed=1)]
    reward = reward_of(found, RewardRules())
    assert reward is not None
    assert reward.reward == pytest.approx(0.85)


def test_what_longer_training_adds_is_the_mean_over_those_that_climbed_step_by_step(evaluated):
    rules, climbs = RewardRules(), Climbs()
    for trained in (
        [evaluated(1, 0.5), evaluated(1, 0.4, rung=1), evaluated(1, 0.1, rung=2)],
        [evaluated(2, 0.6), evaluated(2, 0.3, rung=1)],
        [evaluated(3, 0.9)],
    ):
        climbs = climbs.after(trained, rules)
    assert [climbs.above(rung) for rung in range(3)] == pytest.approx([0.2 + 0.3, 0.3, 0.0])
    assert Climbs.from_json(climbs.to_json()) == climbs
    stopped = reward_of([evaluated(3, 0.9)], rules, climbs)
    assert stopped is not None
    assert (stopped.metric, stopped.lift, stopped.reward) == pytest.approx((0.1, 0.5, 0.6))


def test_where_nobody_climbed_rewards_are_compared_within_their_rung(evaluated):
    climbs = Climbs().after([evaluated(1, 0.5)], RewardRules())
    assert reward_of([evaluated(1, 0.5)], RewardRules(), climbs) == RewardParts(reward=0.5, metric=0.5)


def test_penalties_are_taken_off_what_longer_training_adds_too():
    rules = RewardRules(flops=Penalty(weight=0.9, free=1e6), lowest=0.2)
    found = reward_of([evaluation_of(SCORED)], rules, Climbs(counts=(1,), sums=(0.5,)))
    assert found is not None
    assert found.reward == pytest.approx(0.75 + 0.5 - 0.9)


def test_the_archive_ranks_parents_by_the_same_reward(evaluated):
    archive = SharedArchive()
    for evaluation in (evaluated(1, 0.4), evaluated(1, 0.2, seed=1)):
        archive.add(evaluation)
    (standing,) = archive.standings()
    assert parent_of(standing, "mlp", RewardRules()).parts.reward == pytest.approx(0.7)


def parent(name, family, reward, rung=0):
    return Parent(hash=name, family=family, parts=RewardParts(reward=reward, metric=reward), rung=rung)


def test_the_best_of_every_family_is_on_offer_before_the_second_best_of_one():
    designs = [parent("a", "mlp", 0.9), parent("b", "mlp", 0.8), parent("c", "gated", 0.5), parent("d", "mlp", 0.7)]
    assert [each.hash for each in on_offer(designs, 3)] == ["a", "c", "b"]


def test_a_design_that_was_trained_longer_comes_before_one_that_was_not():
    designs = [parent("short", "mlp", 0.9), parent("long", "mlp", 0.8, rung=1)]
    assert [each.hash for each in on_offer(designs, 2)] == ["long", "short"]
