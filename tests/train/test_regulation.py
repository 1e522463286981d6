"""What a callback may set of a training: rates and decay by part, dropout, gates, all undone exactly."""

from pathlib import Path

import pytest
import torch
from torch import nn

from chiasma.data.dataset import Dataset
from chiasma.model.gates import Gate
from chiasma.model.multimodal import ModelSpec
from chiasma.store.checkpoint import load_newest
from chiasma.train.callbacks import Action, Regulate, ScaleLearningRate
from chiasma.train.design import Design, OptimSpec
from chiasma.train.optim import NamedOptimizer
from chiasma.train.regulation import NEUTRAL, Dropouts, Regulation
from chiasma.train.trainer import Trainer
from tests.train.test_resuming import assert_same, assert_same_fit, fit_in_parts
from tests.train.toys import At, StopAfter

SET = Regulation.from_dict(
    {
        "rate": 0.5,
        "rates": {"fusion": 2.0, "head": 0.1},
        "decay": 3.0,
        "dropout": 2.0,
        "gates": {"fusion": {"scale": 1.05, "shift": 0.02}},
    }
)


def rates(optimizer: NamedOptimizer) -> dict[str, tuple[float, float]]:
    return {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.algorithm.param_groups
        for name, parameter in optimizer.parameters.items()
        if any(parameter is each for each in group["params"])
    }


def built(model: ModelSpec, data: Dataset):
    torch.manual_seed(0)
    return model.build(data.signature)


def test_rates_and_decay_are_scaled_by_part_on_top_of_what_callbacks_scale(model: ModelSpec, claims: Dataset):
    optimizer = NamedOptimizer(built(model, claims), OptimSpec.from_dict({"lr": 1.0, "weight_decay": 0.1}))
    optimizer.scale({"head": 0.5})
    optimizer.regulate(SET)
    found = rates(optimizer)
    assert found["head.layers.1.weight"] == (pytest.approx(0.5 * 0.1 * 0.5), pytest.approx(0.3))
    fusion = next(name for name in found if name.startswith("fusion"))
    assert found[fusion][0] == pytest.approx(1.0)
    assert next(rate for name, (rate, _) in found.items() if name.startswith("encoders.image")) == pytest.approx(0.5)


def test_what_is_neutral_changes_no_rate(model: ModelSpec, claims: Dataset):
    optimizer = NamedOptimizer(built(model, claims), OptimSpec())
    before = rates(optimizer)
    optimizer.regulate(SET)
    assert rates(optimizer) != before
    optimizer.regulate(NEUTRAL)
    assert rates(optimizer) == before


def test_dropout_is_scaled_from_what_was_built_and_follows_edits():
    model = nn.ModuleDict({"a": nn.Dropout(0.2), "b": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.6))})
    dropouts = Dropouts(model)
    dropouts.scale(1.5)
    dropouts.scale(2.0)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.4, 0.9]
    model["c"] = nn.Dropout(0.1)
    dropouts.follow(model)
    assert model["c"].p == 0.2
    assert model["a"].p == 0.4
    dropouts.scale(1.0)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.2, 0.6, 0.1]


def test_a_gate_changes_what_the_head_sees_and_is_a_part_of_the_spec(model: ModelSpec, claims: Dataset):
    network = built(model, claims).eval()
    batch = claims.batch(claims.rows("steer")[:4])
    plain = network(batch).logits
    network.modulate({"fusion": Gate(scale=1.1, shift=0.05)})
    moved = network(batch).logits
    assert not torch.equal(plain, moved)
    again = network.spec.build(claims.signature).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(batch).logits, moved)
    network.modulate({})
    assert torch.equal(network(batch).logits, plain)


def test_a_neutral_gate_passes_the_very_same_tokens(model: ModelSpec, claims: Dataset):
    tokens = built(model, claims).fuse(built(model, claims).encode(claims.batch(claims.rows("steer")[:2])))
    assert Gate().apply(tokens) is tokens


def run(design: Design, data: Dataset, actions: dict[int, Action], **arguments):
    return Trainer(design, data, device="cpu", callbacks=[At(actions)], **arguments).fit()


def test_a_neutral_regulation_leaves_the_training_as_it_is_to_the_last_bit(design: Design, claims: Dataset):
    assert_same_fit(run(design, claims, {}), run(design, claims, {3: Regulate(NEUTRAL), 9: Regulate(NEUTRAL)}))


def test_what_is_set_and_taken_back_at_once_leaves_no_trace(design: Design, claims: Dataset):
    class Twice(At):
        def review(self, moment):
            return [Regulate(SET), Regulate(NEUTRAL)] if moment.step == 4 else []

    undone = Trainer(design, claims, device="cpu", callbacks=[Twice({})]).fit()
    assert_same_fit(run(design, claims, {}), undone)


@pytest.mark.parametrize("stops", [(5,), (6, 20)], ids=str)
def test_a_regulated_training_that_is_stopped_continues_to_the_same_bits(
    design: Design, claims: Dataset, tmp_path: Path, stops: tuple[int, ...]
):
    actions: dict[int, Action] = {5: Regulate(SET), 12: ScaleLearningRate({"fusion": 0.5}), 18: Regulate(NEUTRAL)}
    whole = run(design, claims, actions, checkpoints=tmp_path / "whole")
    parts = fit_in_parts(design, claims, tmp_path / "parts", stops=stops, callbacks=lambda: [At(actions)])
    assert_same_fit(whole, parts)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_the_best_weights_come_back_with_the_gates_they_were_measured_with(design: Design, claims: Dataset):
    seen = {}

    class Moving(At):
        def review(self, moment):
            if moment.metrics is not None:
                seen[moment.metrics["step"]] = dict(moment.model.gates)
            return [Regulate(Regulation(gates={"fusion": Gate(scale=1 + moment.step / 100)}))]

    fit = Trainer(design, claims, device="cpu", callbacks=[Moving({})]).fit()
    assert fit.model.gates == seen[fit.best["step"]]
    assert len({str(gates) for gates in seen.values()}) == len(seen)


def test_a_checkpoint_says_what_is_set(design: Design, claims: Dataset, tmp_path: Path):
    stop = StopAfter(6)
    trainer = Trainer(
        design, claims, device="cpu", callbacks=[At({5: Regulate(SET)})], checkpoints=tmp_path, progress=stop
    )
    stop.trainer = trainer
    trainer.fit()
    found = load_newest(tmp_path)
    assert found is not None
    assert found.documents["state"]["training"]["regulation"] == SET.to_dict()
    assert found.documents["design"]["model"]["gates"]["fusion"]["scale"] == 1.05
