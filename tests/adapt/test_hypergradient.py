"""The derivative of the loss with respect to the learning rate, and rates that follow it."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from chiasma.adapt.callbacks import callbacks_of
from chiasma.adapt.hypergradient import FollowHypergradient
from chiasma.adapt.slopes import LARGEST, Slopes
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.train.callbacks import Moment
from chiasma.train.controlling import HypergradientController
from chiasma.train.design import Design
from chiasma.train.regulation import Regulation
from chiasma.train.trainer import Trainer
from tests.adapt.test_controller import design
from tests.train.conftest import claims, model
from tests.train.test_resuming import assert_same_fit, fit_in_parts

__all__ = ["claims", "design", "model"]


class Bowl(nn.Module):
    """A quadratic with one parameter in each of two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = nn.ParameterDict({"w": nn.Parameter(torch.tensor([1.0, -2.0]))})
        self.head = nn.ParameterDict({"w": nn.Parameter(torch.tensor([0.5, 3.0, -1.0]))})

    def loss(self) -> torch.Tensor:
        return (self.fusion["w"] ** 2).sum() * 2 + ((self.head["w"] - 1) ** 2).sum() * 0.5


def descend(bowl: Bowl, rate: float) -> None:
    bowl.zero_grad()
    bowl.loss().backward()
    with torch.no_grad():
        for parameter in bowl.parameters():
            parameter -= rate * parameter.grad


@pytest.mark.parametrize("rate", [0.02, 0.4])
def test_the_hypergradient_is_the_finite_difference_of_the_loss_over_the_rate(rate: float):
    def loss_after(step: float) -> float:
        bowl = Bowl().double()
        descend(bowl, step)
        return float(bowl.loss().detach())

    bowl, slopes = Bowl().double(), Slopes()
    slopes.remember(bowl)
    descend(bowl, rate)
    slopes.displaced(bowl)
    bowl.zero_grad()
    bowl.loss().backward()
    found = slopes.read(bowl)
    assert found is not None
    small = 1e-5
    expected = (loss_after(rate + small) - loss_after(rate - small)) / (2 * small)
    assert found["all"].product / rate == pytest.approx(expected, rel=1e-5)
    assert found["all"].product == pytest.approx(found["fusion"].product + found["head"].product, rel=1e-6)


def test_a_rate_that_is_too_small_points_up_and_one_that_overshoots_points_down():
    for rate, sign in ((0.02, 1), (0.4, -1)):
        bowl, slopes = Bowl(), Slopes()
        slopes.remember(bowl)
        descend(bowl, rate)
        slopes.displaced(bowl)
        bowl.zero_grad()
        bowl.loss().backward()
        found = slopes.read(bowl)
        assert found is not None
        assert math.copysign(1, found["fusion"].cosine) == sign
        assert abs(found["all"].cosine) <= 1


def test_nothing_is_said_where_nothing_was_noted_or_the_model_was_edited():
    bowl, slopes = Bowl(), Slopes()
    assert slopes.read(bowl) is None
    slopes.remember(bowl)
    bowl.head["new"] = nn.Parameter(torch.ones(1))
    slopes.displaced(bowl)
    assert slopes.read(bowl) is None
    assert slopes.tensors() == {}


def test_no_gradient_leads_back_and_nothing_is_held_afterwards():
    bowl, slopes = Bowl(), Slopes()
    slopes.remember(bowl)
    descend(bowl, 0.1)
    slopes.displaced(bowl)
    assert all(not value.requires_grad for value in slopes.tensors().values())
    bowl.loss().backward()
    slopes.read(bowl)
    assert slopes.tensors() == {}


def follow(bowl: Bowl, *, rate: float, steps: int) -> float:
    """Train a bowl with a rate that follows its hypergradient; return the factor in the end."""
    callback = FollowHypergradient(HypergradientController(every=3, step=0.2))
    factor = 1.0
    for step in range(1, steps + 1):
        descend(bowl, rate * factor)
        moment = Moment(step, steps, 0.0, 1.0, 1.0, rate, None, (), bowl)
        for action in callback.review(moment):
            factor = action.regulation.rate
    return factor


def test_the_rate_rises_where_it_is_too_small_and_falls_where_it_is_too_large():
    assert follow(Bowl(), rate=1e-3, steps=60) > 3
    assert follow(Bowl(), rate=0.49, steps=60) < 0.9


def test_rates_stay_within_reach():
    callback = FollowHypergradient(HypergradientController(step=50.0, reach=4.0, apart=True))
    bowl = Bowl()
    for step in range(1, 200):
        descend(bowl, 1e-6)
        for action in callback.review(Moment(step, 500, 0.0, 1.0, 1.0, 1e-3, None, (), bowl)):
            rates = action.regulation.rates
            assert all(0.25 - 1e-9 <= value <= 4 + 1e-9 for value in rates.values())
    assert rates["fusion"] == pytest.approx(4.0)


def followed(design: Design, **settings) -> Design:
    return replace_at(design, "training.controller", {"kind": "hypergradient", "every": 5, **settings})


@pytest.mark.parametrize("stops", [(3,), (4,), (9, 14)], ids=str)
def test_a_training_that_is_stopped_follows_on_to_the_same_bits(
    design: Design, claims: Dataset, tmp_path: Path, stops: tuple[int, ...]
):
    chosen = followed(design, apart=True)
    whole = Trainer(chosen, claims, device="cpu", callbacks=callbacks_of(chosen, claims, seed=0)).fit()
    parts = fit_in_parts(chosen, claims, tmp_path, stops=stops, callbacks=lambda: callbacks_of(chosen, claims, seed=0))
    assert_same_fit(whole, parts)
    assert whole.callbacks["controller"]["logs"] == parts.callbacks["controller"]["logs"]
    assert any(whole.callbacks["controller"]["logs"].values())


def test_one_rate_for_all_is_a_regulation_of_all():
    callback = FollowHypergradient(HypergradientController(every=3))
    bowl = Bowl()
    actions = []
    for step in range(1, 4):
        descend(bowl, 1e-3)
        actions += callback.review(Moment(step, 9, 0.0, 1.0, 1.0, 1e-3, None, (), bowl))
    assert actions[0].regulation == Regulation(rate=actions[0].regulation.rate)
    assert actions[0].regulation.rate > 1


def test_a_look_compares_the_displacement_of_a_period_with_the_gradient_after_it():
    bowl, slopes = Bowl(), Slopes()
    places = []
    for step in range(1, 11):
        descend(bowl, 0.01)
        places.append(bowl.head["w"].detach().clone())
        found = slopes.look(bowl, left=-step % 5, period=5)
        assert (found is not None) == (step % 5 == 0)
        if found is not None:
            moved = places[step - 2] - places[step - 5]
            gradient = bowl.head["w"].grad
            assert gradient is not None
            assert found["head"].product == pytest.approx(float(gradient @ moved), rel=1e-5)


def test_rows_of_a_large_parameter_stand_for_the_rest():
    model = nn.ModuleDict({"fusion": nn.Embedding(4096, 64)})
    parameter = model["fusion"].weight
    slopes = Slopes()
    slopes.remember(model)
    assert sum(value.numel() for value in slopes.tensors().values()) <= LARGEST
    parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        parameter -= 0.5 * parameter.grad
    slopes.displaced(model)
    found = slopes.read(model)
    assert found is not None
    assert found["fusion"].product == pytest.approx(-0.5 * parameter.numel(), rel=1e-4)
    assert found["fusion"].cosine == pytest.approx(1.0, rel=1e-5)
