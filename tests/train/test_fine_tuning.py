"""A tiny pretrained encoder, fine-tuned: rates by layer, layers that wake up, low-rank adapters."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import prepare
from chiasma.experiment.backbones import with_backbones
from chiasma.experiment.calibration import Calibrator
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.fine_tuning import check_layers_learn
from chiasma.experiment.saved import SavedModel
from chiasma.model.adapters import with_adapters_merged
from chiasma.model.cost import parameters
from chiasma.model.encoders.layered import layered_in
from chiasma.model.encoders.pretrained import PretrainedEncoder, load_published
from chiasma.model.multimodal import MultimodalModel
from chiasma.train.design import Design, OptimSpec, Unfreezing
from chiasma.train.memory import training_memory
from chiasma.train.optim import NamedOptimizer
from chiasma.train.trainer import Trainer
from tests.published import save_backbone

pytestmark = pytest.mark.xdist_group("fine_tuning")

LAYERS = "encoders.text.backbone.encoder.layer"
EMBEDDINGS = "encoders.text.backbone.embeddings.word_embeddings.weight"
ADAPTERS = {"rank": 2, "dropout": 0.1}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    save_backbone("bert", folder / "bert")
    words = ["love", "you", "cat", "dog", "red", "green", "blue", "people"]
    rng = np.random.default_rng(0)
    lines = [f"{' '.join(rng.choice(words, 4))} {k},{'ab'[k % 2]}" for k in range(80)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return folder


def tuned(place: Path, **values) -> tuple[Design, Dataset]:
    """Return a design around the tiny encoder, and its data."""
    settings = {
        "data.source": str(place / "rows.csv"),
        "data.steer_fraction": 0.2,
        "run.cache": str(place / "cache"),
        "run.device": "cpu",
        "model.dim": 8,
        "model.encoders.text": {"kind": "pretrained", "name": str(place / "bert"), **values.pop("encoder", {})},
        "train.epochs": 2,
        "train.batch_size": 16,
        "train.evaluations": 2,
        "train.restore_best": False,
        **values,
    }
    config = with_backbones(load_config(values=settings), SilentConsole())
    dataset, _ = prepare(config.data, seed=0, cache=place / "cache")
    return config.design(dataset.signature), dataset


def fresh(design: Design, dataset: Dataset) -> MultimodalModel:
    torch.manual_seed(0)
    model = design.model.build(dataset.signature)
    load_published(model)
    return model


def changed(before: MultimodalModel, after: MultimodalModel) -> set[str]:
    old, new = before.state_dict(), after.state_dict()
    return {name for name in new if not torch.equal(old[name], new[name])}


def test_each_layer_has_the_rate_of_the_one_above_it_times_the_decay(place):
    design, dataset = tuned(place, encoder={"freeze": "none"})
    model = fresh(design, dataset)
    optimizer = NamedOptimizer(model, OptimSpec(lr=1.0, layer_decay=0.5))
    names = {id(parameter): name for name, parameter in optimizer.parameters.items()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.algorithm.param_groups for p in group["params"]}
    query = "attention.self.query.weight"
    found = [rates[EMBEDDINGS], *(rates[f"{LAYERS}.{layer}.{query}"] for layer in range(3))]
    assert found == [0.0625, 0.125, 0.25, 0.5]
    assert {rates[name] for name in rates if "backbone" not in name} == {1.0}
    optimizer.set_rate(0.1)
    assert optimizer.rekeyed(model).algorithm.param_groups == optimizer.algorithm.param_groups


def test_layer_decay_changes_what_is_learned(place):
    trained = [
        Trainer(*tuned(place, encoder={"freeze": "none"}, **{"optim.layer_decay": decay}), device="cpu").fit().model
        for decay in (1.0, 0.3)
    ]
    assert f"{LAYERS}.0.output.dense.weight" in changed(*trained)


@pytest.mark.parametrize(
    ("progress", "asleep"), [(0.0, 4), (0.19, 4), (0.2, 3), (0.35, 2), (0.5, 1), (0.55, 1), (0.6, 0), (1.0, 0)]
)
def test_layers_wake_up_one_after_another_from_the_last(progress, asleep):
    assert Unfreezing(begin=0.2, end=0.6).asleep(4, progress=progress) == asleep


def test_a_sleeping_layer_keeps_its_weights_and_has_no_state(place):
    encoder = {"freeze": "none"}
    rules = {"begin": 0.6, "end": 1.0}
    design, dataset = tuned(place, encoder=encoder, **{"train.unfreeze": rules})
    before = design.model.build(dataset.signature)
    load_published(before)
    trainer = Trainer(design, dataset, device="cpu")
    touched = changed(before, trainer.fit().model)
    # In six steps the last layer learns twice, the one below once, the first and the embeddings never.
    assert trainer.total_steps == 6
    assert f"{LAYERS}.2.output.dense.weight" in touched
    assert f"{LAYERS}.0.output.dense.weight" not in touched
    assert EMBEDDINGS not in touched
    assert f"{LAYERS}.0.output.dense.weight/exp_avg" not in trainer._learner.optimizer.state()
    whole = Trainer(*tuned(place, encoder=encoder), device="cpu").fit().model
    assert EMBEDDINGS in changed(before, whole)


def test_a_training_that_unfreezes_resumes_to_the_same_bits(place, tmp_path):
    design, dataset = tuned(
        place, encoder={"freeze": "none"}, **{"train.unfreeze": {"begin": 0.2, "end": 0.8}, "train.restore_best": True}
    )
    whole = Trainer(design, dataset, device="cpu").fit().model
    first = Trainer(design, dataset, device="cpu", checkpoints=tmp_path, checkpoint_every_seconds=0)
    stop = first._advance

    def advance() -> None:
        stop()
        if first._state.step == 3:
            first.request_stop()

    first._advance = advance
    first.fit()
    resumed = Trainer(design, dataset, device="cpu", checkpoints=tmp_path).fit().model
    assert changed(whole, resumed) == set()


def test_rules_for_layers_that_do_not_learn_are_refused(place):
    frozen, dataset = tuned(place, **{"optim.layer_decay": 0.9, "train.unfreeze": {}})
    with pytest.raises(ConfigError, match=r"optim.layer_decay=0.9 and train.unfreeze: .* the model has none"):
        check_layers_learn(frozen, dataset.signature)
    for encoder in ({"freeze": "last_n"}, {"lora": ADAPTERS}):
        design, _ = tuned(place, encoder=encoder, **{"optim.layer_decay": 0.9})
        check_layers_learn(design, dataset.signature)


def test_fresh_adapters_change_nothing_and_draw_nothing_but_themselves(place):
    plain, adapted = (fresh(*tuned(place, encoder=encoder)) for encoder in ({}, {"lora": ADAPTERS}))
    ids = torch.tensor([[3, 9, 10, 11, 0, 0]])
    first, second = (model.encoders["text"].eval().read(ids).x for model in (plain, adapted))
    assert torch.equal(first, second)


def test_only_adapters_learn_and_they_are_counted(place):
    design, dataset = tuned(place, encoder={"lora": ADAPTERS})
    before = fresh(design, dataset)
    trainer = Trainer(design, dataset, device="cpu")
    after = trainer.fit().model
    backbone = {name for name in changed(before, after) if "backbone" in name}
    assert backbone
    assert all("lora_" in name for name in backbone)
    learned = [p for name, p in before.named_parameters() if "lora_" in name or "backbone" not in name]
    count = sum(parameter.numel() for parameter in learned)
    assert parameters(before) == count
    assert training_memory(design, dataset.signature).optimiser == 2 * 4 * count
    assert {name.rpartition("/")[0] for name in trainer._learner.optimizer.state()} == set(
        trainer._learner.optimizer.parameters
    )
    assert max(depth for each in layered_in(before) for depth in each.values()) == 3


def test_adapters_are_where_they_are_wanted(place):
    model = fresh(*tuned(place, encoder={"lora": {"rank": 3, "targets": ["query", "value"]}}))
    found = {name.split(".")[-4]: p.shape for name, p in model.named_parameters() if "lora_A" in name}
    assert set(found) == {"query", "value"}
    assert found["query"] == (3, 16)
    with pytest.raises(ConfigError, match=r"no linear map called querry; they have: dense, key, query, value"):
        fresh(*tuned(place, encoder={"lora": {"targets": ["querry"]}}))
    with pytest.raises(ConfigError, match=r"needs freeze=all, but freeze=none"):
        tuned(place, encoder={"lora": ADAPTERS, "freeze": "none"})


@pytest.mark.parametrize("merge", [False, True])
def test_a_saved_model_with_adapters_answers_the_same_after_reload(place, tmp_path, merge, monkeypatch):
    design, dataset = tuned(place, encoder={"lora": {**ADAPTERS, "merge": merge}}, **{"optim.lr": 0.05})
    model = Trainer(design, dataset, device="cpu").fit().model
    encoder = model.encoders["text"]
    assert isinstance(encoder, PretrainedEncoder)
    kept = with_adapters_merged(model)
    assert any("lora_" in name for name in kept.state_dict()) != merge
    calibrator = Calibrator(task="classification")
    SavedModel(kept, dataset.preprocessing(), calibrator).save(tmp_path / "model")
    if merge:
        monkeypatch.setitem(sys.modules, "peft", None)
    loaded = SavedModel.load(tmp_path / "model", device="cpu").model
    batch = dataset.batch(dataset.rows("select"))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch).logits, model.eval()(batch).logits, rtol=1e-4, atol=1e-5)
        plain = fresh(*tuned(place)).eval()(batch).logits
    assert not torch.allclose(plain, loaded(batch).logits, atol=1e-2)


def test_without_peft_one_line_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"need peft: pip install 'chiasma\[lora\]'"):
        fresh(*tuned(place, encoder={"lora": ADAPTERS}))
