"""The double loop in real trainings: neutral, bounded, rolled back, detached, and resumed to the same bits."""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from chiasma.adapt.callbacks import callbacks_of, told
from chiasma.adapt.controller import Controller, interval
from chiasma.adapt.growth import Growth
from chiasma.adapt.policy import Policy
from chiasma.adapt.signals import INPUTS
from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.model.multimodal import ModelSpec
from chiasma.train.callbacks import Moment
from chiasma.train.controlling import LSTMController
from chiasma.train.design import Design, LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.fit import Fit
from chiasma.train.trainer import Trainer
from tests.adapt.test_growth import EVENTFUL, growing, same
from tests.train.conftest import claims, model
from tests.train.test_resuming import assert_same_fit, fit_in_parts
from tests.train.toys import Each

__all__ = ["claims", "model"]


@pytest.fixture
def design(model: ModelSpec) -> Design:
    """Return a design of some twenty steps."""
    optim = OptimSpec.from_dict({"lr": 5e-3, "warmup": 0.1})
    return Design(
        model=model, training=TrainingSpec(optim=optim, loop=LoopSpec(epochs=3, batch_size=32, evaluations=3))
    )


BUSY = {"every": 3, "share": 1.0, "sample": 32, "window": 2, "hidden": 8}
ALL = ["rate", "rates", "dropout", "decay", "gates", "structure"]


def controlled(design: Design, **settings) -> Design:
    return replace_at(design, "training.controller", {"kind": "lstm", **BUSY, **settings})


def trained(design: Design, data: Dataset, *more, **arguments) -> tuple[Fit, Controller]:
    callbacks = callbacks_of(design, data, seed=0)
    fit = Trainer(design, data, device="cpu", callbacks=[*callbacks, *more], **arguments).fit()
    return fit, next(each for each in callbacks if isinstance(each, Controller))


def untimed(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "seconds"}


class Scripted(Controller):
    """A controller whose actions are written beforehand; everything else is real."""

    script: tuple[float, ...] = ()

    def _act(self, inputs):
        super()._act(inputs)
        told = self.script[min(self._decisions, len(self.script)) - 1]
        if self._actions:
            self._actions[-1] = [told] * len(self._actions[-1])
        return [told] * 12


def scripted(design: Design, data: Dataset, script: tuple[float, ...], *more) -> tuple[Fit, Scripted]:
    spec = design.training.controller
    assert isinstance(spec, LSTMController)
    controller = Scripted(spec, design, data, seed=0)
    controller.script = script
    return Trainer(design, data, device="cpu", callbacks=[controller, *more]).fit(), controller


def test_a_controller_that_stays_neutral_changes_no_bit_of_the_training(design: Design, claims: Dataset):
    plain = Trainer(design, claims, device="cpu").fit()
    still, controller = scripted(controlled(design, controls=ALL), claims, (0.0,))
    assert_same_fit(plain, still)
    assert len(controller.trace) > 5


def test_the_settings_reach_the_training(design: Design, claims: Dataset):
    fit, controller = trained(controlled(design, controls=ALL, limit=1e6), claims)
    assert any(abs(value) > 0.05 for value in controller.settings.values())
    plain = Trainer(design, claims, device="cpu").fit()
    assert [row["train_loss"] for row in fit.history] != [row["train_loss"] for row in plain.history]


@pytest.mark.parametrize("stops", [(1,), (2,), (5, 6), (4, 13, 22)], ids=str)
def test_a_controlled_training_that_is_stopped_continues_to_the_same_bits(
    design: Design, claims: Dataset, tmp_path: Path, stops: tuple[int, ...]
):
    chosen = controlled(design, controls=ALL)
    whole, _ = trained(chosen, claims)
    parts = fit_in_parts(chosen, claims, tmp_path, stops=stops, callbacks=lambda: callbacks_of(chosen, claims, seed=0))
    assert_same_fit(whole, parts)
    assert untimed(whole.callbacks["controller"]) == untimed(parts.callbacks["controller"])


def test_what_was_learned_survives_a_stop_to_the_last_bit(design: Design, claims: Dataset, tmp_path: Path):
    chosen = controlled(design)
    _, whole = trained(chosen, claims)
    parts: list[Controller] = []

    def fresh():
        made = callbacks_of(chosen, claims, seed=0)
        parts.extend(each for each in made if isinstance(each, Controller))
        return made

    fit_in_parts(chosen, claims, tmp_path, stops=(10, 17), callbacks=fresh)
    one, other = whole.tensors(), parts[-1].tensors()
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert float(one["policy/actor.weight"].abs().sum()) > 0


def test_a_trunk_that_grows_under_a_controller_grows_on_to_the_same_bits(claims: Dataset, tmp_path: Path):
    brief = replace_at(growing(**EVENTFUL), "training.loop.epochs", 2.0)
    chosen = controlled(brief, controls=["rate", "gates", "structure"])
    whole, controller = trained(chosen, claims)
    assert whole.callbacks["growth"]["events"]
    assert "structure" in controller.settings
    steps = [event["step"] for event in whole.callbacks["growth"]["events"]]
    parts = fit_in_parts(
        chosen,
        claims,
        tmp_path,
        stops=(steps[0], steps[-1] + 1) if steps[0] < steps[-1] else (steps[0],),
        callbacks=lambda: callbacks_of(chosen, claims, seed=0),
    )
    assert same(whole, parts)
    assert untimed(whole.callbacks["controller"]) == untimed(parts.callbacks["controller"])


def test_structural_proposals_reach_growth_and_exist_only_where_a_design_grows(design: Design, claims: Dataset):
    chosen = controlled(growing(**EVENTFUL), controls=["structure"])
    controller, growth = callbacks_of(chosen, claims, seed=0)
    assert isinstance(growth, Growth)
    assert growth.urging is controller
    still = callbacks_of(controlled(design, controls=["rate", "structure"]), claims, seed=0)
    assert [list(each.settings) for each in still if isinstance(each, Controller)] == [["rate"]]


def test_an_action_after_which_the_loss_rises_is_taken_back_and_taught_to_be_bad(design: Design, claims: Dataset):
    applied: list[tuple[int, float]] = []
    chosen = controlled(replace_at(design, "training.optim.schedule", {"kind": "constant"}), step=100.0, reach=100.0)

    def see(moment: Moment) -> None:
        applied.append((moment.step, trainer._learner.optimizer.regulation.rate))

    spec = chosen.training.controller
    assert isinstance(spec, LSTMController)
    controller = Scripted(spec, chosen, claims, seed=0)
    controller.script = (0.0, 0.0, 50.0, 0.0)
    trainer = Trainer(chosen, claims, device="cpu", callbacks=[controller, Each(see)])
    fit = trainer.fit()
    assert controller.returns
    first = controller.returns[0]
    rates = dict(applied)
    assert rates[first["step"] - 1] == pytest.approx(100.0)
    assert rates[first["step"]] == 1.0
    assert "rose from" in first["reason"]
    assert all(math.isfinite(row["train_loss"]) for row in fit.history)


def test_after_a_roll_back_it_rests_longer_each_time(design: Design, claims: Dataset):
    chosen = controlled(replace_at(design, "training.loop.epochs", 8.0), step=100.0, reach=100.0)
    _, controller = scripted(chosen, claims, (0.0, 50.0))
    steps = [each["step"] for each in controller.returns]
    assert len(steps) >= 2
    acted = [point["step"] for point in controller.trace if point["rate"] > 1]
    assert min(step for step in acted if step > steps[0]) - steps[0] > controller.every


def test_a_roll_back_makes_the_action_less_likely(design: Design, claims: Dataset):
    chosen = controlled(design, step=100.0, reach=100.0, trust=0.0, lr=0.05, entropy=0.0)
    _, controller = scripted(chosen, claims, (1.0,))
    assert controller.returns
    means, _, _ = controller.critic.decide([0.0] * len(INPUTS), controller.critic.policy.fresh_memory())
    assert means[0] < 0


def test_a_loss_that_falls_is_a_reward_and_one_that_rises_is_not(design: Design, claims: Dataset):
    chosen = controlled(replace_at(design, "training.loop.epochs", 6.0), window=1000, limit=1e6, explore=0.01)
    _, controller = trained(chosen, claims)
    losses = [point["loss"] for point in controller.trace]
    assert losses[-1] < losses[0]
    falls = [before - after for before, after in itertools.pairwise(losses)]
    assert len(controller._rewards) == len(falls) > 10
    assert [reward > 0 for reward in controller._rewards] == [fall > 0 for fall in falls]
    assert max(controller._rewards) > 0


def test_a_lesson_sees_the_decisions_as_they_were_made(design: Design, claims: Dataset):
    chosen = controlled(replace_at(design, "training.loop.epochs", 4.0), lr=0.05, window=3, limit=1e6)
    spec = chosen.training.controller
    assert isinstance(spec, LSTMController)
    controller = Controller(spec, chosen, claims, seed=0)
    policy = controller.critic.policy
    decided: list[torch.Tensor] = []
    differences: list[float] = []
    forgetful: list[float] = []

    def see(module, inputs, outputs) -> None:
        rows, _ = inputs
        if not torch.is_grad_enabled():
            decided.append(outputs[0][0])
            return
        told = torch.stack(decided[-spec.window :])
        differences.append(float((outputs[0][: spec.window] - told).detach().abs().max()))
        with torch.no_grad():
            fresh = Policy.forward(policy, rows, policy.fresh_memory())[0][: spec.window]
        forgetful.append(float((fresh - told).abs().max()))

    policy.register_forward_hook(see)
    Trainer(chosen, claims, device="cpu", callbacks=[controller]).fit()
    assert len(differences) >= 3
    assert max(differences) < 1e-5
    # With a memory that began anew they would be others.
    assert max(forgetful) > 1e-3


def test_no_gradient_reaches_the_controller_and_its_memory_does_not_grow(design: Design, claims: Dataset):
    sizes: list[int] = []
    chosen = controlled(replace_at(design, "training.loop.epochs", 5.0), controls=ALL)
    spec = chosen.training.controller
    assert isinstance(spec, LSTMController)
    controller = Controller(spec, chosen, claims, seed=0)

    def see(moment: Moment) -> None:
        state = controller.state_dict()
        held = [*state["window"]["inputs"], *state["past"]]
        sizes.append(len(held))
        memory = {name: value for name, value in controller.tensors().items() if not name.startswith("policy")}
        assert not any(value.requires_grad for value in memory.values())
        assert all(value.grad_fn is None for value in controller.tensors().values())

    Trainer(chosen, claims, device="cpu", callbacks=[controller, Each(see)]).fit()
    assert max(sizes) <= 2 * spec.window + 1
    assert all(parameter.grad is None for parameter in controller.critic.policy.parameters())


def test_the_model_sees_no_gradient_of_the_controller(design: Design, claims: Dataset):
    gradients: dict[int, float] = {}
    chosen = controlled(design, controls=["gates"])

    def see(moment: Moment) -> None:
        grads = [parameter.grad for parameter in moment.model.parameters() if parameter.grad is not None]
        gradients[moment.step] = float(torch.nn.utils.get_total_norm(grads))
        assert gradients[moment.step] <= min(moment.gradient_norm, 1.0) * 1.001

    trained(chosen, claims, Each(see))
    assert len(gradients) > 20


def test_measuring_is_on_a_fixed_sample_of_steer_and_booked_apart(design: Design, claims: Dataset):
    fit, controller = trained(controlled(design, sample=16), claims)
    assert len(controller.rows) == 16
    assert set(controller.rows) <= set(claims.rows("steer"))
    again = Controller(controller.spec, controlled(design, sample=16), claims, seed=0)
    assert list(again.rows) == list(controller.rows)
    seconds = fit.callbacks["controller"]["seconds"]
    assert all(seconds[name] > 0 for name in ("steps", "computing", "measuring"))
    assert sum(seconds.values()) <= fit.seconds
    assert set(told(fit.callbacks["controller"])) == {"trace", "returns", "seconds", "every"}


def test_decisions_are_rarer_where_measuring_would_cost_too_much():
    spec = LSTMController(every=20, share=0.1)
    assert interval(spec, sample=256, batch_size=256) == 20
    assert interval(spec, sample=256, batch_size=64) == 20
    assert interval(spec, sample=256, batch_size=16) == 80
    for batch_size in (4, 16, 64):
        every = interval(spec, sample=256, batch_size=batch_size)
        assert 0.5 * 256 / (every * batch_size) <= spec.share


def test_a_rate_that_is_far_too_small_is_raised_from_the_start(design: Design, claims: Dataset):
    slow = replace_at(replace_at(design, "training.optim.lr", 1e-5), "training.loop.epochs", 8.0)
    _, controller = trained(controlled(slow, explore=0.05), claims)
    assert controller.trace[-1]["rate"] > 2


def test_a_design_with_a_controller_needs_its_callback_and_steer(design: Design, claims: Dataset):
    with pytest.raises(ConfigError, match=r"section controller.*callbacks_of\(design, data, seed=seed\)"):
        Trainer(controlled(design), claims)
    loop = {"train_on_steer": True, "restore_best": False}
    with pytest.raises(ConfigError, match="excludes train_on_steer"):
        replace_at(
            replace_at(design, "training.optim.schedule", {"kind": "cosine"}),
            "training",
            {
                "controller": {"kind": "lstm"},
                "loop": loop,
            },
        )


CHANGES: dict[str, Any] = {
    "controls": ["rates"],
    "every": 4,
    "sample": 16,
    "share": 0.01,
    "hidden": 4,
    "layers": 2,
    "lr": 0.1,
    "window": 3,
    "discount": 0.0,
    "trace": 0.0,
    "entropy": 1.0,
    "explore": 0.05,
    "trust": 0.0,
    "step": 3.0,
    "reach": 1.05,
    "strength": 0.4,
    "limit": 1e-4,
}


@pytest.fixture(scope="module")
def observed() -> dict[str, Any]:
    """Return what was seen so far, by settings."""
    return {}


def test_every_setting_is_tried():
    assert set(CHANGES) | {"kind", "learns", "start", "content"} == set(LSTMController.model_fields)


@pytest.mark.parametrize("setting", CHANGES)
def test_changing_a_setting_changes_what_the_controller_does(
    observed: dict[str, Any], design: Design, claims: Dataset, setting: str
):
    # A rate at which losses go up and down, so that also the limit of a rise is seen.
    short = replace_at(replace_at(design, "training.loop.epochs", 2.0), "training.optim.lr", 0.05)
    base = controlled(short, controls=["rate", "gates"])
    if "usual" not in observed:
        observed["usual"] = trained(base, claims)[0].callbacks["controller"]["trace"]
    changed = replace_at(base, f"training.controller.{setting}", CHANGES[setting])
    assert trained(changed, claims)[0].callbacks["controller"]["trace"] != observed["usual"]


def test_nobody_is_born_while_a_controller_wants_fewer_members(claims: Dataset):
    happened = {}
    for push in (-50.0, 0.0):
        brief = replace_at(growing(**EVENTFUL), "training.loop", {"epochs": 2, "batch_size": 32, "evaluations": 4})
        chosen = controlled(brief, controls=["structure"])
        spec, rules = chosen.training.controller, chosen.training.growth
        assert isinstance(spec, LSTMController)
        assert rules is not None
        controller = Scripted(spec, chosen, claims, seed=0)
        controller.script = (push,)
        growth = Growth(rules, claims, seed=0, urging=controller)
        Trainer(chosen, claims, device="cpu", callbacks=[controller, growth]).fit()
        happened[push] = {event["event"] for event in growth.events}
    assert "birth" not in happened[-50.0]
    assert "birth" in happened[0.0]
