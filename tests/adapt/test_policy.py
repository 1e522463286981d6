"""What the controller's network may do, and that it learns from what its actions led to."""

import math

import numpy as np
import pytest
import torch

from chiasma.adapt.controls import DROPOUT_REACH, NAMES, RATES, STRUCTURE, in_use, moved, regulation, without_place
from chiasma.adapt.lifecycle import Life, Prune, review
from chiasma.adapt.policy import ActorCritic, Lesson, Policy
from chiasma.adapt.signals import FARTHEST, INPUTS, SLOPES, Normaliser, Smoothed
from chiasma.core.errors import ConfigError
from chiasma.model.multimodal import ModelSpec
from chiasma.train.controlling import LSTMController
from chiasma.train.design import GrowthSpec
from chiasma.train.regulation import NEUTRAL

ALL = LSTMController(controls=("rate", "rates", "dropout", "decay", "gates", "structure"))
STILL = dict.fromkeys(NAMES, 0.0)


def test_neutral_settings_regulate_nothing():
    found = regulation(STILL, ALL)
    assert (found.rate, found.decay, found.dropout) == (1.0, 1.0, 1.0)
    assert set(found.rates.values()) == {1.0}
    assert all((gate.scale, gate.shift) == (1.0, 0.0) for gate in found.gates.values())
    assert regulation({}, ALL) == NEUTRAL


@pytest.mark.parametrize("size", [1.0, 1e3, 1e20, math.inf, math.nan])
def test_settings_stay_within_bounds_whatever_the_network_says(size: float):
    rng = np.random.default_rng(0)
    settings = dict(STILL)
    for _ in range(200):
        settings = moved(settings, list(rng.standard_normal(len(NAMES)) * size), ALL)
        found = regulation(settings, ALL)
        assert all(-1 <= value <= 1 for value in settings.values())
        assert all(1 / ALL.reach - 1e-9 <= rate <= ALL.reach + 1e-9 for rate in (found.rate, *found.rates.values()))
        assert 1 / DROPOUT_REACH - 1e-9 <= found.dropout <= DROPOUT_REACH + 1e-9
        assert all(abs(gate.scale - 1) <= 0.1 + 1e-9 and abs(gate.shift) <= 0.1 + 1e-9 for gate in found.gates.values())


@pytest.mark.parametrize("scale", [1e2, 1e6, 1e30])
def test_a_network_of_extreme_weights_says_nothing_that_is_not_finite(scale: float):
    critic = ActorCritic(ALL, NAMES, seed=0)
    with torch.no_grad():
        for parameter in critic.policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * scale)
        critic.policy.spread.clamp_(-3, 0)
    memory = critic.policy.fresh_memory()
    settings = dict(STILL)
    for _ in range(20):
        means, spreads, memory = critic.decide([FARTHEST] * len(INPUTS), memory)
        assert all(math.isfinite(value) for value in (*means, *spreads))
        settings = moved(settings, means, ALL)
        assert all(-1 <= value <= 1 for value in settings.values())


def test_one_change_of_a_rate_is_at_most_its_largest_factor():
    found = regulation(moved(STILL, [1e9] * len(NAMES), ALL), ALL)
    assert found.rate == pytest.approx(ALL.step)
    assert found.decay == pytest.approx(ALL.step)


def test_slopes_stand_in_the_order_of_the_rates_that_follow_them():
    assert NAMES[: len(SLOPES)] == ("rate", *RATES)
    policy = Policy(hidden=8, layers=1, trust=2.0, explore=0.3, seed=0)
    inputs = torch.zeros(1, len(INPUTS))
    inputs[0, 0], inputs[0, 3] = 0.3, -0.3
    means, _, _ = policy(inputs, policy.fresh_memory())
    signs = torch.sign(means[0]).int().tolist()
    assert signs == [1, 0, 0, -1, *[0] * (len(NAMES) - 4)]


def teach(better: float, *, seed: int, lessons: int = 60) -> float:
    """Return the mean action on the rate after lessons that reward ``better`` times its rise."""
    spec = LSTMController(trust=0.0, lr=3e-3, window=5, hidden=16)
    critic = ActorCritic(spec, ("rate",), seed=seed)
    rng = np.random.default_rng(seed)
    memory = critic.policy.fresh_memory()
    settings = {"rate": 0.0}
    inputs: list[float] = [0.0] * len(INPUTS)
    for _ in range(lessons):
        begun, seen, actions, rewards = memory, [], [], []
        for _ in range(spec.window):
            means, spreads, memory = critic.decide(inputs, memory)
            action = [m + s * float(z) for m, s, z in zip(means, spreads, rng.standard_normal(len(NAMES)), strict=True)]
            after = moved(settings, action, spec)
            seen.append(inputs)
            actions.append(action)
            rewards.append(better * math.tanh(action[0]) * 2 + 0.3 * float(rng.standard_normal()))
            settings = after if abs(after["rate"]) < 1 else {"rate": 0.0}
            inputs = [0.0] * (len(INPUTS) - 1) + [settings["rate"]]
        critic.learn(Lesson(seen, actions, rewards, inputs, begun))
    means, _, _ = critic.decide([0.0] * len(INPUTS), critic.policy.fresh_memory())
    return means[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_to_raise_a_rate_where_higher_is_better_and_to_lower_it_where_lower_is(seed: int):
    assert teach(1.0, seed=seed) > 0.1
    assert teach(-1.0, seed=seed) < -0.1


def test_advantages_are_the_generalised_estimate_with_what_follows():
    critic = ActorCritic(LSTMController(discount=0.5, trace=0.8), ("rate",), seed=0)
    memory = critic.policy.fresh_memory()
    rows = [[0.0] * len(INPUTS)] * 2
    # By hand: surprises 1 + 0.5 * 3 - 2 = 0.5 and -1 + 0.5 * 4 - 3 = -2; the first looks ahead with 0.5 * 0.8.
    found = critic._advantages(Lesson(rows, rows, [1.0, -1.0], rows[0], memory), [2.0, 3.0, 4.0])
    assert found == pytest.approx([0.5 + 0.4 * -2.0, -2.0])
    # Where the past ends, nothing follows: -1 - 3 = -4.
    ended = critic._advantages(Lesson(rows, rows, [1.0, -1.0], None, memory), [2.0, 3.0])
    assert ended == pytest.approx([0.5 + 0.4 * -4.0, -4.0])


def test_entropy_asks_for_wider_tries_of_what_is_in_use():
    critic = ActorCritic(LSTMController(entropy=0.25), ("rate", "decay"), seed=0)
    # A fresh critic expects nothing, so that without a reward there is no advantage, and only entropy is left.
    lesson = Lesson([[0.3] * len(INPUTS)], [[0.5] * len(NAMES)], [0.0], None, critic.policy.fresh_memory())
    critic._loss(lesson).backward()
    assert critic.policy.spread.grad is not None
    wanted = [-0.25 if name in ("rate", "decay") else 0.0 for name in NAMES]
    assert critic.policy.spread.grad.tolist() == pytest.approx(wanted)


def test_what_is_not_in_use_is_not_learned():
    spec = LSTMController()
    critic = ActorCritic(spec, ("rate",), seed=0)
    lesson = Lesson([[0.1] * len(INPUTS)], [[1.0] * len(NAMES)], [2.0], None, critic.policy.fresh_memory())
    before = critic.policy.actor.bias.detach().clone()
    critic.learn(lesson)
    changed = (critic.policy.actor.bias.detach() != before).tolist()
    assert changed == [True, *[False] * (len(NAMES) - 1)]


def test_a_lesson_that_is_not_finite_is_not_learned():
    critic = ActorCritic(LSTMController(), ("rate",), seed=0)
    before = {name: value.clone() for name, value in critic.tensors().items()}
    critic.learn(Lesson([[0.0] * len(INPUTS)], [[math.inf] * len(NAMES)], [1.0], None, critic.policy.fresh_memory()))
    assert all(torch.equal(before[name], value) for name, value in critic.tensors().items())


def test_a_fresh_network_draws_nothing_from_torchs_generator():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    Policy(hidden=8, layers=2, trust=1.0, explore=0.3, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_only_what_the_design_has_is_set():
    fused = ModelSpec.from_dict(
        {"encoders": {"image": {"kind": "convolution"}, "text": {"kind": "ngram"}}, "fusion": {"kind": "gated"}}
    )
    alone = ModelSpec.from_dict({"encoders": {"text": {"kind": "ngram"}}})
    assert not {"rate_trunk", "trunk_scale", STRUCTURE} & set(in_use(ALL, fused, grows=False))
    assert "rate_fusion" in in_use(ALL, fused, grows=False)
    assert "rate_fusion" not in in_use(ALL, alone, grows=False)


def test_a_controller_that_would_set_nothing_is_refused_and_one_that_sets_less_is_told():
    model = ModelSpec.from_dict({"encoders": {"text": {"kind": "ngram"}}})
    idle = LSTMController(controls=("structure",))
    with pytest.raises(ConfigError, match=r"would set nothing in this design: structure needs a trunk that grows"):
        in_use(idle, model, grows=False)
    assert in_use(idle, model, grows=True) == (STRUCTURE,)
    assert without_place(idle, model, grows=True) is None
    line = without_place(ALL, model, grows=False)
    assert line == (
        "controller.controls sets nothing in this design by structure: structure needs a trunk that grows "
        "(--config growth)"
    )


def test_inputs_are_normalised_and_bounded():
    normalise = Normaliser()
    seen = [normalise("loss", value) for value in np.random.default_rng(0).normal(5.0, 2.0, 300)]
    assert abs(np.mean(seen[50:])) < 0.3
    assert 0.6 < np.std(seen[50:]) < 1.5
    assert normalise("loss", 1e9) <= FARTHEST
    assert normalise("loss", math.nan) == FARTHEST
    again = Normaliser(normalise.to_dict())
    assert again("loss", 4.0) == normalise("loss", 4.0)


def test_the_smoothed_loss_continues_from_what_it_was():
    one = Smoothed()
    for value in (1.0, 0.8, 0.9):
        one.add(value)
    other = Smoothed(one.to_dict())
    one.add(0.7)
    other.add(0.7)
    assert one.to_dict() == other.to_dict()
    assert 0.7 < one.value < 1.0


def idle(count: int) -> list[Life]:
    figures = {"gains": (0.008,) * 4, "errors": (0.001,) * 4, "contributions": (0.1,), "shares": (1.0,)}
    good = {"gains": (0.3,) * 4, "errors": (0.01,) * 4, "contributions": (0.9,), "shares": (1.0,)}
    lives = [Life.from_dict({"name": "useless", "kind": "perceptron", "promoted": 0, **figures})]
    return lives + [
        Life.from_dict({"name": f"good_{k}", "kind": "perceptron", "promoted": 0, **good}) for k in range(count)
    ]


def test_an_urge_leans_on_the_rules_of_growth_and_sets_none_aside():
    rules = GrowthSpec(worth=0.0095)
    lean = {"progress": 0.1, "cooldown": {}}
    assert not isinstance(review(idle(2), rules, **lean), Prune)
    assert isinstance(review(idle(2), rules, **lean, urge=-1.0), Prune)
    assert isinstance(review(idle(2), GrowthSpec(worth=0.011), **lean), Prune)
    assert not isinstance(review(idle(2), GrowthSpec(worth=0.011), **lean, urge=1.0), Prune)
    fine = idle(3)[1:]
    assert review(fine, rules, **lean) is not None
    assert review(fine, rules, **lean, urge=-0.6) is None
    assert review(fine, GrowthSpec(largest=3), **lean, urge=1.0) is None
    assert review(idle(1), GrowthSpec(worth=0.0095, smallest=2), **lean, urge=-1.0) is None
