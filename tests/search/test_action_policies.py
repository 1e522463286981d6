import json

import pytest

from benchmarks.fusion_controller import PLANTED, POLICIES, play
from chiasma.search.action_policy import Factors, Progress
from chiasma.search.actor_critic import ActorCritic, ActorCriticRules
from chiasma.search.fusion_action import FusionAction

SMALL = Factors(families=PLANTED)
STANDING = Progress(best=0.6, recent=(0.5, 0.6), valid=0.9, left=0.5, parents=3, families={"mlp": 2})


def talk(policy, asks, *, lag=3, first=0):
    """Ask so many times, tell each reward three asks later, and return the actions."""
    actions, numbers = [], list(policy._waiting)
    for index in range(first, first + asks):
        number, action = policy.ask(Progress(best=0.1 * (index % 7), recent=(0.3,), parents=index % 6))
        actions.append(action)
        numbers.append(number)
        if len(numbers) > lag:
            told = numbers.pop(0)
            policy.tell([(told, 0.1 * (told % 5))])
    return actions


@pytest.mark.parametrize("kind", POLICIES)
def test_a_policy_that_is_saved_and_continued_chooses_the_same(kind):
    whole = POLICIES[kind](seed=3)
    wanted = talk(whole, 40)
    first = POLICIES[kind](seed=3)
    before = talk(first, 20)
    state = json.loads(json.dumps(first.state_dict()))
    second = POLICIES[kind](seed=3)
    second.load_state_dict(state)
    assert before + talk(second, 20, first=20) == wanted
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("kind", POLICIES)
def test_batches_of_rewards_do_not_matter(kind):
    together, one_by_one = (POLICIES[kind](seed=1) for _ in range(2))
    for policy in (together, one_by_one):
        for _ in range(13):
            policy.ask(STANDING)
    rewards = [(number, 0.1 * (number % 4)) for number in range(13)]
    together.tell(reversed(rewards))
    for reward in rewards:
        one_by_one.tell([reward])
    assert together.state_dict() == one_by_one.state_dict()


@pytest.mark.parametrize("kind", POLICIES)
def test_another_seed_chooses_something_else(kind):
    assert talk(POLICIES[kind](seed=3), 10) != talk(POLICIES[kind](seed=4), 10)


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize(("parents", "operations"), [(0, {"fresh"}), (1, {"fresh", "mutate"})])
def test_an_operation_is_chosen_only_where_it_has_its_parents(kind, parents, operations):
    policy = POLICIES[kind](seed=0)
    found = [policy.ask(Progress(parents=parents))[1] for _ in range(60)]
    assert {action.operation for action in found} == operations


@pytest.mark.parametrize("kind", POLICIES)
def test_parents_are_chosen_among_those_that_exist_and_by_editing_alone(kind):
    policy = POLICIES[kind](seed=0)
    found = [policy.ask(Progress(parents=2))[1] for _ in range(80)]
    assert {action.parent for action in found if action.operation != "fresh"} == {0, 1}
    default = FusionAction()
    fresh = [action for action in found if action.operation == "fresh"]
    assert {(action.parent, action.intensity) for action in fresh} == {(default.parent, default.intensity)}
    edits = [action for action in found if action.operation == "mutate"]
    assert {(action.family, action.depth) for action in edits} == {(default.family, default.depth)}


@pytest.mark.parametrize("kind", POLICIES)
def test_a_failure_of_ours_teaches_nothing(kind):
    policy = POLICIES[kind](seed=0)
    for _ in range(8):
        policy.ask(STANDING)
    before = policy.state_dict()["learnt"]
    policy.tell([(number, None) for number in range(8)])
    after = policy.state_dict()
    assert (after["learnt"], after["waiting"]) == (before, {})


@pytest.mark.parametrize("kind", POLICIES)
def test_a_reward_that_nobody_waits_for_is_refused(kind):
    policy = POLICIES[kind](seed=0)
    number, _ = policy.ask(STANDING)
    policy.tell([(number, 0.5)])
    with pytest.raises(ValueError, match=r"ask 0 is not waiting for a reward: waiting are \[\]"):
        policy.tell([(number, 0.5)])


@pytest.mark.parametrize("kind", ["actor_critic", "bandit"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_policy_finds_the_family_that_pays_and_none_where_rewards_are_shuffled(kind, seed):
    better = PLANTED[seed]

    def share(*, shuffled):
        policy = POLICIES[kind](seed=seed, factors=SMALL)
        return play(policy, better, asks=160, seed=seed, shuffled=shuffled)

    assert share(shuffled=False) >= 0.8
    assert share(shuffled=True) < 0.8


def test_even_choice_learns_nothing():
    assert play(POLICIES["uniform"](seed=0, factors=SMALL), "gated", asks=160, seed=0, shuffled=False) < 0.6


def test_the_actor_critic_chooses_by_how_the_search_stands():
    """Early in the budget one operation pays, late another: only what looks at the budget can learn both."""
    policy = ActorCritic(seed=0)
    for index in range(160):
        early = index % 2 == 0
        number, action = policy.ask(Progress(left=1.0 if early else 0.0, parents=4))
        policy.tell([(number, float((action.operation == "fresh") == early))])
    fresh = [policy.chances(Progress(left=left, parents=4))["operation"][0] for left in (1.0, 0.0)]
    assert fresh[0] > 0.7
    assert fresh[1] < 0.3


def test_more_entropy_keeps_an_actor_critic_trying():
    def boldest(entropy):
        policy = ActorCritic(seed=0, factors=SMALL, rules=ActorCriticRules(entropy=entropy))
        for _ in range(80):
            number, action = policy.ask(STANDING)
            policy.tell([(number, float(action.family == "gated"))])
        return max(policy.chances(STANDING)["family"])

    assert boldest(1.0) < 0.8 < 0.9 < boldest(0.0)


def test_equal_rewards_leave_the_odds_even():
    policy = ActorCritic(seed=0, rules=ActorCriticRules(entropy=0.0))
    for _ in range(40):
        number, _ = policy.ask(STANDING)
        policy.tell([(number, 0.5)])
    assert policy.chances(STANDING)["family"] == pytest.approx([1 / 6] * 6)


def test_a_search_can_be_held_to_some_choices():
    policy = ActorCritic(seed=0, factors=Factors(families=("mlp",), depths=(3,), operations=("fresh",), parents=0))
    found = {(a.family, a.depth, a.operation) for _, a in (policy.ask(Progress(parents=4)) for _ in range(20))}
    assert found == {("mlp", 3, "fresh")}


def test_a_factor_without_choices_is_refused():
    with pytest.raises(ValueError, match="every factor needs at least one choice, but family has none"):
        Factors(families=())
    with pytest.raises(ValueError, match="operations must hold fresh"):
        Factors(operations=("mutate",))
