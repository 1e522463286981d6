"""Growth while a model trains: births that change nothing, optimiser state that follows names, and exact resume."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chiasma.adapt.callbacks import callbacks_of
from chiasma.adapt.growth import Growth
from chiasma.adapt.lifecycle import Life
from chiasma.adapt.measure import Measured, Measuring, constant_loss, losses
from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.signature import Target
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from chiasma.model.trunk import Population
from chiasma.store.checkpoint import load_newest
from chiasma.train.callbacks import EditModel, Moment, Say
from chiasma.train.design import Design, GrowthSpec, LoopSpec, OptimSpec, TrainingSpec
from chiasma.train.fit import Fit
from chiasma.train.trainer import Trainer
from tests.train.conftest import claims
from tests.train.toys import Each, StopAfter

__all__ = ["claims"]

PLACE = {"member": {"kind": "perceptron", "dropout": 0.0}, "role": "newcomer", "parent": "perceptron_1"}
BIRTH = {"event": "birth", "name": "perceptron_9", "place": PLACE, "centre": None, "radius": 1.0}


class Scripted(Growth):
    """Growth whose events are written beforehand; everything else is real."""

    script: Mapping[int, Mapping[str, Any]] = {}

    def review(self, moment: Moment):
        return [EditModel(self.script[moment.step])] if moment.step in self.script else []


def growing(model: ModelSpec | None = None, **rules) -> Design:
    trunk = {
        "kind": "population",
        "heads": 2,
        "members": {
            "perceptron_1": {"member": {"kind": "perceptron"}},
            "residual_convolution_1": {"member": {"kind": "residual_convolution"}},
            "transformer_1": {"member": {"kind": "transformer", "heads": 2}},
        },
    }
    spec = ModelSpec.from_dict(
        {
            "dim": 8,
            "encoders": {
                "image": {"kind": "convolution", "widths": (4, 8), "grid": 2},
                "text": {"kind": "bert", "depth": 1, "heads": 2},
            },
            "fusion": {"kind": "early", "depth": 1, "heads": 2},
            "trunk": trunk,
        }
    )
    optim = OptimSpec.from_dict({"lr": 1e-2})
    loop = LoopSpec(epochs=4, batch_size=32, ema=0.9, evaluations=8)
    return Design(model=spec, training=TrainingSpec(optim=optim, loop=loop, growth=GrowthSpec.from_dict(rules)))


EVENTFUL = {
    "probation": 1,
    "longevity": 1,
    "certainty": 0.0,
    "worth": 0.0,
    "cooldown": 1,
    "last_birth": 1.0,
    "learned": 0.0,
}


def trainer(design: Design, data: Dataset, **arguments) -> Trainer:
    return Trainer(design, data, device="cpu", callbacks=callbacks_of(design, data, seed=0), **arguments)


def growth_of(trainer: Trainer) -> Growth:
    growth = trainer.callbacks["growth"]
    assert isinstance(growth, Growth)
    return growth


def weights(done: Fit) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in done.model.state_dict().items()}


def same(one: Fit, other: Fit) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_members_are_born_promoted_and_pruned_and_the_models_record_is_true(claims: Dataset):
    running = trainer(growing(**EVENTFUL), claims)
    done = running.fit()
    growth = growth_of(running)
    happened = {event["event"] for event in growth.events}
    assert happened == {"birth", "promotion", "pruning"}
    assert len(done.history) == growth.reviews == 8
    torch.manual_seed(5)
    again = done.model.spec.build(claims.signature)
    again.load_state_dict(done.model.state_dict(), strict=True)
    assert all(event["reason"] and event["loss"] > 0 for event in growth.events)
    assert [event["step"] for event in growth.events] == sorted(event["step"] for event in growth.events)


@pytest.mark.parametrize("births", ["guided", "random"])
def test_a_training_that_is_stopped_at_any_step_grows_on_to_the_same_bits(claims: Dataset, tmp_path: Path, births: str):
    design = growing(**EVENTFUL, births=births, lessons=births == "guided")
    whole = trainer(design, claims)
    uninterrupted = whole.fit()
    steps = sorted({event["step"] for event in growth_of(whole).events})
    assert len(steps) >= 3
    for number, step in enumerate((steps[0], steps[1] + 1, steps[-1])):
        folder = tmp_path / str(number)
        stop = StopAfter(step)
        first = trainer(design, claims, checkpoints=folder, progress=stop)
        stop.trainer = first
        assert first.fit().stopped == "interrupted"
        second = trainer(design, claims, checkpoints=folder)
        assert same(second.fit(), uninterrupted), step
        assert growth_of(second).state_dict() == growth_of(whole).state_dict()


def scripted(data: Dataset, script: Mapping[int, Mapping[str, Any]], see=lambda moment: None, **arguments) -> Trainer:
    design = growing()
    growth = Scripted(design.training.growth, data, seed=0)
    growth.script = script
    return Trainer(design, data, device="cpu", callbacks=[growth, Each(see)], **arguments)


def test_after_a_prune_the_moments_of_all_others_are_untouched(claims: Dataset, tmp_path: Path):
    script = {5: BIRTH, 9: {"event": "pruning", "name": "transformer_1"}}
    found = {}
    for step in (9, 10):
        stop = StopAfter(step)
        first = scripted(
            claims, {k: v for k, v in script.items() if k < step}, checkpoints=tmp_path / str(step), progress=stop
        )
        stop.trainer = first
        first.fit()
        found[step] = load_newest(tmp_path / str(step)).tensors("optimizer")
    stop = StopAfter(9)
    pruned = scripted(claims, script, checkpoints=tmp_path / "pruned", progress=stop)
    stop.trainer = pruned
    pruned.fit()
    after = load_newest(tmp_path / "pruned").tensors("optimizer")
    kept = {name for name in found[9] if "transformer_1" not in name}
    assert kept == set(after)
    assert all(torch.equal(after[name], found[9][name]) for name in kept)
    assert any("perceptron_9" in name for name in kept)


def test_a_newcomer_is_in_the_optimiser_and_moves(claims: Dataset):
    seen = {}

    def see(moment: Moment) -> None:
        if moment.step in (5, 8):
            seen[moment.step] = {
                name: value.detach().clone() for name, value in moment.model.named_parameters() if "_9" in name
            }

    scripted(claims, {5: BIRTH}, see).fit()
    assert seen[5].keys() == seen[8].keys()
    assert len(seen[5]) > 5
    assert all(not torch.equal(seen[5][name], seen[8][name]) for name in seen[5])


def test_leaving_a_member_out_is_measured_as_pruning_it_would_be(claims: Dataset):
    torch.manual_seed(0)
    model = growing().model.build(claims.signature)
    measuring = Measuring(claims, claims.rows("steer"), precision="float32")
    before = measuring.members(model)
    assert isinstance(model.trunk, Population)
    model.trunk.prune("perceptron_1")
    after = measuring.members(model)
    assert after.loss == pytest.approx(before.loss * (1 + before.gains["perceptron_1"]), rel=1e-6)
    assert sum(before.shares.values()) == pytest.approx(3)
    assert (before.shared <= measuring.members(model).shared.max() + before.loss * 10).all()


def test_a_newcomer_that_says_nothing_is_worth_exactly_nothing(claims: Dataset):
    torch.manual_seed(0)
    model = growing().model.build(claims.signature)
    growth = Growth(GrowthSpec(), claims, seed=0)
    growth.edit_model(model, BIRTH)
    measured = growth.measuring.members(model)
    assert measured.gains["perceptron_9"] == measured.errors["perceptron_9"] == 0
    assert measured.shares["perceptron_9"] == 0


def test_a_promotion_gives_an_even_share_and_keeps_the_newcomers_part(claims: Dataset):
    torch.manual_seed(0)
    model = growing().model.build(claims.signature)
    growth = Growth(GrowthSpec(), claims, seed=0)
    growth.edit_model(model, BIRTH)
    assert isinstance(model.trunk, Population)
    torch.nn.init.normal_(model.trunk.members["perceptron_9"].last.weight, std=0.02)
    folding = growth.measuring.folding(model, "perceptron_9")
    assert "perceptron_9" in model.trunk.newcomers
    assert 0 < folding.difference < 1
    growth.edit_model(
        model, {"event": "promotion", "name": "perceptron_9", "prior": folding.prior, "gain": folding.gain}
    )
    assert growth.measuring.members(model).shares["perceptron_9"] == pytest.approx(1.0, abs=1e-3)


def test_growth_without_a_trunk_or_on_rows_that_decide_is_refused():
    with pytest.raises(ConfigError, match="the model has no trunk"):
        replace_at(growing(), "model.trunk", None)
    loop = {"train_on_steer": True, "restore_best": False}
    with pytest.raises(ConfigError, match="excludes train_on_steer"):
        replace_at(growing(), "training.loop", loop)


def test_a_trainer_without_the_callback_is_refused(claims: Dataset):
    with pytest.raises(ConfigError, match=r"callbacks_of\(design, data, seed=seed\)"):
        Trainer(growing(), claims)


def test_nothing_happens_where_members_are_only_watched(claims: Dataset):
    running = trainer(growing(births="none"), claims)
    done = running.fit()
    growth = growth_of(running)
    assert growth.events == []
    assert done.model.spec == growing().model
    assert all(len(life.gains) == 8 for life in growth.lives.values())


def test_births_at_random_measure_but_do_not_listen(claims: Dataset):
    running = trainer(growing(births="random", largest=4, probation=1, learned=0.0), claims)
    running.fit()
    growth = growth_of(running)
    assert {event["reason"] for event in growth.events} <= {"at random", "a kind at random"}
    assert {event["event"] for event in growth.events} >= {"birth", "promotion", "pruning"}


def test_a_newcomers_learning_rate_rises_over_its_first_reviews(claims: Dataset):
    rates: dict[int, dict[str, float]] = {}

    def see(moment: Moment) -> None:
        rates[moment.step] = dict(running._learner.optimizer.factors)

    design = growing(**EVENTFUL, warm_up=3)
    running = Trainer(design, claims, device="cpu", callbacks=[*callbacks_of(design, claims, seed=0), Each(see)])
    running.fit()
    born = next(event for event in growth_of(running).events if event["event"] == "birth")
    factors = [rates[step].get(f"trunk.members.{born['name']}") for step in (born["step"], born["step"] + 4)]
    assert factors == [0.25, 0.5]


def test_growth_is_a_part_of_the_result(claims: Dataset):
    done = trainer(growing(**EVENTFUL), claims).fit()
    assert done.callbacks["growth"]["reviews"] == 8
    assert set(done.callbacks["growth"]["lives"]) >= set(done.model.spec.trunk.members)


def test_nothing_happens_before_the_model_has_learned_something(claims: Dataset):
    said = Said(-1)
    waiting = trainer(growing(**{**EVENTFUL, "learned": 0.9}), claims, progress=said)
    done = waiting.fit()
    assert growth_of(waiting).events == []
    assert growth_of(waiting).reviews == 8
    assert [words[:20] for words in said.lines] == ["growth waits: on ste", "growth never began: "]
    assert list(done.callbacks["growth"]["waits"].values()) == said.lines[1:]


class Said(StopAfter):
    """Remembers the lines that are shown of a training."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.lines: list[str] = []

    def edited(self, reason: str, *, step: int) -> None:
        self.lines.append(reason)


def moment(model: MultimodalModel, step: int = 10, *, total: int = 100) -> Moment:
    """Return what growth sees after an evaluation."""
    return Moment(step, total, 1.0, 0.7, 1.0, 1e-3, {"loss": 0.7}, (), model)


def begun(data: Dataset, **rules) -> tuple[MultimodalModel, Growth]:
    """Return a fresh model and its growth."""
    torch.manual_seed(0)
    return growing().model.build(data.signature), Growth(GrowthSpec.from_dict({"learned": 0.0, **rules}), data, seed=0)


def asked(growth: Growth, model: MultimodalModel, step: int) -> list[Mapping[str, Any]]:
    """Have growth review a model, carry out what it asks for, and return the edits."""
    edits = [action.edit for action in growth.review(moment(model, step)) if isinstance(action, EditModel)]
    for edit in edits:
        growth.edit_model(model, edit)
    return edits


class Planted(Measuring):
    """Sees a model that ranks the examples well and shifts all of them to one class."""

    def members(self, model: MultimodalModel) -> Measured:
        known = torch.nn.functional.one_hot(self.labels, 2).double().numpy()
        return replace(super().members(model), loss=9.0, logits=known + np.array([0.0, 9.0]))


def test_growth_begins_where_a_model_ranks_although_its_loss_is_above_that_of_a_constant(claims: Dataset):
    model, growth = begun(claims, learned=0.05)
    assert asked(growth, model, 10) == []
    assert list(growth.waits) == ["learned"]
    growth.measuring = Planted(claims, claims.rows("steer"), precision="float32")
    assert [edit["event"] for edit in asked(growth, model, 20)] == ["birth"]
    assert growth.began == 0.2
    assert growth.waits == {
        "learned": "growth waited for 20 % of the training, until the model had learned something (growth.learned=0.05)"
    }


def test_why_nothing_will_happen_is_said_at_the_first_review_and_once(claims: Dataset):
    model, growth = begun(claims, largest=3)
    said = [action.words for action in growth.review(moment(model, 40)) if isinstance(action, Say)]
    assert [words[:24] for words in said] == ["growth waits: this train", "growth waits: there are "]
    again = Growth(growth.rules, claims, seed=0)
    again.load_state_dict(growth.state_dict())
    assert not [action for action in again.review(moment(model, 80)) if isinstance(action, Say)]
    _, watching = begun(claims, births="none", largest=3)
    assert watching.review(moment(model, 40)) == []


def test_a_training_that_grows_asks_for_rows_that_train_and_steer_alone(
    claims: Dataset, monkeypatch: pytest.MonkeyPatch
):
    known = Dataset.rows

    def rows(data: Dataset, split: str) -> np.ndarray:
        assert split in ("train", "steer"), f"{split} decides nothing while a model trains"
        return known(data, split)

    monkeypatch.setattr(Dataset, "rows", rows)
    running = trainer(replace_at(growing(**EVENTFUL), "training.loop.epochs", 1), claims)
    running.fit()
    assert growth_of(running).events


@pytest.mark.parametrize("cooldown", [0, 2])
def test_a_kind_whose_newcomer_failed_cools_down(claims: Dataset, cooldown: int):
    model, growth = begun(claims, cooldown=cooldown, exploit=0.0, largest=9, smallest=9, probation=1, longevity=1)
    growth.edit_model(model, BIRTH)
    growth.lives["perceptron_9"] = Life(name="perceptron_9", kind="perceptron", role="newcomer")
    # It says nothing, so that it is worth nothing.
    assert [edit["event"] for edit in asked(growth, model, 1)] == ["pruning"]
    assert growth.state_dict()["cooldown"] == {"perceptron": cooldown}
    kinds: list[set[str]] = []
    before = growth.state_dict()
    for _ in range(2):
        born: set[str] = set()
        for seed in range(12):
            growth.load_state_dict(before)
            growth.seed = seed
            (action,) = [each for each in growth.review(moment(model, 2)) if isinstance(each, EditModel)]
            born.add(action.edit["place"]["member"]["kind"])
        kinds.append(born)
        before = {**before, "cooldown": growth.state_dict()["cooldown"]}
    assert ["perceptron" in born for born in kinds] == [not cooldown, True]


def test_a_specialist_learns_most_from_the_examples_that_were_found(claims: Dataset):
    model, growth = begun(claims, exploit=1.0, emphasis=3.0)
    (edit,) = asked(growth, model, 10)
    assert edit["event"] == "birth"
    assert isinstance(model.trunk, Population)
    focus = model.trunk.focus(edit["name"])
    assert focus.strength == 3.0
    assert focus.centre.tolist() == pytest.approx(edit["centre"])
    assert focus.centre.any()
    assert focus.radius.item() == pytest.approx(edit["radius"])
    assert focus.radius.item() != 1.0
    states = growth.measuring.members(model).states
    distances = np.linalg.norm(states - np.array(edit["centre"]), axis=1)
    assert distances.min() < edit["radius"] * 1.5


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("classification", torch.tensor([0, 0, 1, 2])),
        ("multilabel", torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])),
        ("regression", torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 1.0]])),
    ],
)
def test_no_answer_that_is_the_same_for_all_is_better_than_the_best_one(task: str, labels: torch.Tensor):
    target = Target.from_dict({"task": task, "labels": ["a", "b", "c"]})
    best = constant_loss(labels, target)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        answer = torch.randn(1, 3, generator=generator).expand(len(labels), 3) * 3
        assert losses(answer, labels, target).mean() >= best - 1e-6
