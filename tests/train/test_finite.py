"""What is not finite is named."""

import pytest
import torch
from torch import nn

from chiasma.core.errors import NonFiniteError
from chiasma.data.batch import Batch, Output, Tokens
from chiasma.data.signature import Target
from chiasma.train.design import OptimSpec, TrainingSpec
from chiasma.train.learner import Learner
from chiasma.train.losses import build_loss

CPU = torch.device("cpu")


class Explosive(nn.Module):
    """Turns numbers above 100 into NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 100, torch.nan, x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 3), Explosive(), nn.Linear(3, 2)

    def forward(self, batch: Batch) -> Output:
        x = batch.inputs["numbers"]
        assert isinstance(x, torch.Tensor)
        return Output(self.last(self.middle(self.first(x))))


def learner(precision: str = "float32") -> Learner:
    torch.manual_seed(0)
    loss = build_loss(None, Target(task="classification", labels=("no", "yes")))
    return Learner(Model(), loss, training=TrainingSpec(), device=CPU, precision=precision, seed=0)


def part(value: float = 1.0) -> tuple[Batch, torch.Tensor]:
    numbers = torch.ones(2, 3)
    numbers[1, 2] = value
    return Batch({"numbers": numbers}, {"numbers": torch.ones(2, dtype=torch.bool)}, ("fine", "odd")), torch.tensor(
        [0, 1]
    )


def test_a_nan_in_the_data_is_named_with_its_example_and_step():
    with pytest.raises(NonFiniteError, match="Step 5: input 'numbers' of example 'odd' holds a NaN"):
        learner().learn([part(), part(torch.nan)], examples=4, step=5, rate=0.1)


def test_a_broken_weight_is_named():
    broken = learner()
    with torch.no_grad():
        broken.model.last.weight[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"Step 0: parameter last\.weight holds"):
        broken.learn([part()], examples=2, step=0, rate=0.1)


def test_the_first_module_whose_output_turned_bad_is_named():
    with pytest.raises(NonFiniteError, match=r"Step 2: the output of module middle \(Explosive\)"):
        learner().learn([part(1e6)], examples=2, step=2, rate=0.1)


def test_a_bad_gradient_under_a_finite_loss_is_named_by_parameter():
    broken = learner()
    broken.model.first.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NonFiniteError, match=r"Step 1: the gradient of parameter first\.weight"):
        broken.learn([part()], examples=2, step=1, rate=0.1)


def test_a_bad_step_leaves_the_weights_as_they_were():
    broken = learner()
    before = {name: value.clone() for name, value in broken.model.state_dict().items()}
    with pytest.raises(NonFiniteError):
        broken.learn([part(torch.nan)], examples=2, step=0, rate=0.1)
    assert all(torch.equal(before[name], value) for name, value in broken.model.state_dict().items())


def test_a_checkpoint_with_a_bad_weight_is_never_written():
    broken = learner()
    with torch.no_grad():
        broken.model.last.bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"last\.bias .* no checkpoint is written"):
        broken.tensors()


def test_float16_skips_a_step_that_overflows_and_lowers_the_scale():
    half = learner("float16")
    before = half.model.last.weight.detach().clone()
    hook = half.model.last.weight.register_hook(lambda gradient: gradient * torch.inf)
    done = half.learn([part()], examples=2, step=0, rate=0.1)
    assert not done.gradient_norm < torch.inf
    assert torch.equal(half.model.last.weight, before)
    assert half.scaler.get_scale() == 2.0**15
    hook.remove()
    half.learn([part()], examples=2, step=1, rate=0.1)
    assert not torch.equal(half.model.last.weight, before)


def test_float16_that_keeps_overflowing_is_an_error():
    half = learner("float16")
    half.model.last.weight.register_hook(lambda gradient: gradient * torch.inf)
    half.scaler.load_state_dict({**half.scaler.state_dict(), "scale": 1.0})
    with pytest.raises(NonFiniteError, match=r"gradient of parameter last\.weight"):
        half.learn([part()], examples=2, step=0, rate=0.1)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_clipping_sees_the_unscaled_gradient(precision: str):
    seen = {}
    for clip in (None, 1e-3):
        training = TrainingSpec(optim=OptimSpec(clip=clip))
        torch.manual_seed(0)
        loss = build_loss(None, Target(task="classification", labels=("no", "yes")))
        one = Learner(Model(), loss, training=training, device=CPU, precision=precision, seed=0)
        done = one.learn([part()], examples=2, step=0, rate=0.0)
        gradients = [gradient.norm() for gradient in one.optimizer.gradients()]
        seen[clip] = (done.gradient_norm, torch.stack(gradients).norm().item())
    assert seen[None][0] == pytest.approx(seen[None][1])
    assert seen[1e-3][0] == pytest.approx(seen[None][0])
    assert seen[1e-3][1] == pytest.approx(1e-3, rel=1e-2)


def test_a_nan_hidden_under_a_mask_is_still_named():
    batch, labels = part()
    tokens = Tokens(torch.full((2, 1, 3), torch.nan), torch.zeros(2, 1, dtype=torch.bool))
    hidden = Batch({**batch.inputs, "tokens": tokens}, batch.present, batch.ids)
    broken = learner()
    assert "input 'tokens'" in str(broken.explain([(hidden, labels)], step=0))
