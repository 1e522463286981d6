"""Optimiser state follows its parameter by name, and weight decay follows the type of module."""

import copy

import pytest
import torch
from torch import nn

from chiasma.core.errors import ConfigError
from chiasma.train.design import SGD, Adam, AdamW, OptimSpec
from chiasma.train.ema import AverageWeights
from chiasma.train.optim import NamedOptimizer, decayed_names


class Small(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts.values():
            x = torch.tanh(part(x))
        return self.norm(x).square().sum()


def train(model: nn.Module, optimizer: NamedOptimizer, steps: int = 3) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1 + step, 8).reshape(2, 4)).backward()
        optimizer.step()


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


ALGORITHMS = [AdamW(), Adam(), SGD(), SGD(momentum=0.0)]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda spec: spec.to_json())
def test_saved_state_continues_to_the_same_bits(algorithm):
    spec = OptimSpec(algorithm=algorithm, lr=0.05, weight_decay=0.1)
    model = Small("a", "b")
    optimizer = NamedOptimizer(model, spec)
    train(model, optimizer)
    other = copy.deepcopy(model)
    resumed = NamedOptimizer(other, spec)
    resumed.load_state({name: value.clone() for name, value in optimizer.state().items()})
    train(model, optimizer)
    train(other, resumed)
    assert equal(model.state_dict(), other.state_dict())
    assert equal(optimizer.state(), resumed.state())


@pytest.mark.parametrize("algorithm", [AdamW(), Adam(), SGD()], ids=lambda spec: spec.kind)
@pytest.mark.parametrize(
    "names",
    [("a", "b", "new"), ("b",), ("b", "a"), ("new", "b")],
    ids=["added", "removed", "reordered", "replaced"],
)
def test_state_follows_each_parameter_by_name_whatever_was_edited(names: tuple[str, ...], algorithm):
    model = Small("a", "b")
    optimizer = NamedOptimizer(model, OptimSpec(algorithm=algorithm))
    train(model, optimizer)
    before = {entry: value.clone() for entry, value in optimizer.state().items()}
    edited = Small(*names)
    after = optimizer.rekeyed(edited).state()
    kept = {entry for entry in before if entry.rpartition("/")[0] in dict(edited.named_parameters())}
    assert equal({entry: after[entry] for entry in kept}, {entry: before[entry] for entry in kept})
    assert any("parts.b.weight" in entry for entry in kept)
    assert not any(after[entry].any() for entry in after.keys() - kept)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.to_json())
def test_a_newcomer_learns_beside_those_that_have_moments(algorithm):
    model = Small("a")
    optimizer = NamedOptimizer(model, OptimSpec(algorithm=algorithm, lr=1e-2))
    train(model, optimizer)
    model.parts["b"] = nn.Linear(4, 4)
    before = model.parts["b"].weight.detach().clone()
    optimizer = optimizer.rekeyed(model)
    train(model, optimizer, steps=1)
    assert not torch.equal(model.parts["b"].weight, before)


def test_a_parameter_whose_shape_changed_starts_afresh():
    model = Small("a")
    optimizer = NamedOptimizer(model, OptimSpec())
    train(model, optimizer)
    wider = Small("a")
    wider.parts["a"] = nn.Linear(4, 6)
    following = optimizer.rekeyed(wider)
    assert not [entry for entry in following.state() if entry.startswith("parts.a.weight/")]
    assert "norm.weight/exp_avg" in following.state()
    for parameter in wider.parameters():
        parameter.grad = torch.ones_like(parameter)
    following.step()
    assert following.state()["parts.a.weight/exp_avg"].shape == (6, 4)


def test_state_of_another_shape_is_refused_with_both_shapes():
    model = Small("a")
    state = {"parts.a.weight/exp_avg": torch.zeros(4, 5)}
    with pytest.raises(ValueError, match=r"parts.a.weight/exp_avg must have its parameter's shape \(4, 4\).*\(4, 5\)"):
        NamedOptimizer(model, OptimSpec()).load_state(state)


def test_a_parameter_without_a_gradient_keeps_still():
    model = Small("a", "idle")
    optimizer = NamedOptimizer(model, OptimSpec(lr=0.1))
    train(model, optimizer)
    optimizer.zero_grad()
    idle = model.parts["idle"].weight.detach().clone()
    model.norm(model.parts["a"](torch.ones(2, 4))).square().sum().backward()
    optimizer.step()
    assert torch.equal(model.parts["idle"].weight, idle)


def test_weight_decay_applies_to_the_weights_of_linear_and_convolutional_layers_only():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.convolution = nn.Linear(3, 3), nn.Conv2d(3, 3, 2)
            self.bag, self.words = nn.EmbeddingBag(5, 3), nn.Embedding(5, 3)
            self.norm, self.group = nn.LayerNorm([3, 3]), nn.GroupNorm(1, 3)
            self.positions = nn.Parameter(torch.zeros(7, 3))

    assert decayed_names(Mixed()) == {"linear.weight", "convolution.weight", "bag.weight"}


def test_decay_shrinks_weights_and_leaves_biases_alone():
    model = nn.Linear(2, 2)
    nn.init.ones_(model.bias)
    optimizer = NamedOptimizer(model, OptimSpec(lr=0.1, weight_decay=0.5))
    before = model.weight.detach().clone()
    (model(torch.zeros(1, 2)) * 0).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, torch.ones(2))


def test_a_factor_scales_the_rate_of_the_longest_matching_part():
    model = Small("a", "b")
    optimizer = NamedOptimizer(model, OptimSpec(lr=1.0))
    optimizer.scale({"parts": 0.5, "parts.b": 0.0})
    optimizer.set_rate(0.1)
    rates = {
        name: group["lr"]
        for group in optimizer.algorithm.param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    assert rates["parts.a.weight"] == pytest.approx(0.05)
    assert rates["parts.b.weight"] == 0.0
    assert rates["norm.weight"] == pytest.approx(0.1)


def test_scaling_keeps_the_moments():
    model = Small("a")
    optimizer = NamedOptimizer(model, OptimSpec())
    train(model, optimizer)
    before = {entry: value.clone() for entry, value in optimizer.state().items()}
    optimizer.scale({"norm": 0.3})
    assert equal(optimizer.state(), before)


def test_a_factor_for_an_unknown_part_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'partz.a'.*Did you mean 'parts.a'"):
        NamedOptimizer(Small("a"), OptimSpec()).scale({"partz.a": 0.5})


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameters"):
        NamedOptimizer(nn.Linear(2, 2).requires_grad_(False), OptimSpec())


def test_a_tied_parameter_is_updated_once():
    model = Small("a", "b")
    model.parts["b"].weight = model.parts["a"].weight
    assert "parts.b.weight" not in NamedOptimizer(model, OptimSpec()).parameters


def test_averages_forget_the_random_start_and_then_decay_as_asked():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = AverageWeights(model, 0.99)
    nn.init.ones_(model.weight)
    average.update(model, updates=0)
    assert average.average["weight"].item() == pytest.approx(0.9)
    before = average.average["weight"].clone()
    average.update(model, updates=10_000)
    assert average.average["weight"].item() == pytest.approx(0.99 * before.item() + 0.01)


def test_lent_averages_give_the_models_own_weights_back_to_the_bit():
    model = nn.Linear(3, 3)
    own = copy.deepcopy(model.state_dict())
    average = AverageWeights(model, 0.9)
    average.average["weight"].zero_()
    with average.applied(model):
        assert not model.weight.any()
    assert equal(model.state_dict(), own)
    assert not average.average["weight"].any()


def test_averages_follow_an_edit_by_name():
    model = Small("a", "b")
    average = AverageWeights(model, 0.9)
    average.average["parts.b.weight"].fill_(7.0)
    edited = Small("b", "new")
    following = average.rekeyed(edited).average
    assert torch.equal(following["parts.b.weight"], torch.full((4, 4), 7.0))
    assert torch.equal(following["parts.new.weight"], edited.parts["new"].weight)
    assert "parts.a.weight" not in following


def test_averages_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"average of weight must have shape \(3, 3\), but has \(2, 2\)"):
        AverageWeights(nn.Linear(3, 3, bias=False), 0.9).load_state({"weight": torch.zeros(2, 2)})
