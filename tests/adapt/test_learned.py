"""A learned controller as a folder: saved and loaded equal, identified by content, refused where it does not fit."""

from pathlib import Path
from shutil import rmtree

import pytest
import torch

from chiasma.adapt.callbacks import callbacks_of
from chiasma.adapt.controller import Controller
from chiasma.adapt.learned import Knowledge, content_of, knowledge_for, load_knowledge
from chiasma.core.errors import ConfigError, CorruptFileError, StorageError
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.store.checkpoint import save_checkpoint
from chiasma.train.controlling import LSTMController
from chiasma.train.design import Design
from chiasma.train.trainer import Trainer
from tests.adapt.test_controller import BUSY, controlled, design, trained
from tests.train.conftest import claims, model
from tests.train.test_resuming import assert_same_fit, fit_in_parts

__all__ = ["claims", "design", "model"]


@pytest.fixture
def learned(design: Design, claims: Dataset) -> Knowledge:
    """Return what a controller knows after one training."""
    _, controller = trained(controlled(replace_at(design, "training.loop.epochs", 2.0)), claims)
    return controller.knowledge


def started(design: Design, folder: Path, **settings) -> Design:
    return controlled(design, start=str(folder), content=content_of(folder), **settings)


def test_a_controller_is_saved_and_loaded_equal(learned: Knowledge, tmp_path: Path):
    content = learned.save(tmp_path / "one")
    again = load_knowledge(tmp_path / "one")
    assert again.card == learned.card
    assert again.tensors.keys() == learned.tensors.keys()
    assert all(torch.equal(again.tensors[name], value) for name, value in learned.tensors.items())
    assert again.save(tmp_path / "two") == content


def test_a_training_begins_with_what_was_learned_and_decides_as_its_teacher_would(
    design: Design, claims: Dataset, learned: Knowledge, tmp_path: Path
):
    learned.save(tmp_path)
    chosen = started(design, tmp_path, learns=False)
    (begun,) = callbacks_of(chosen, claims, seed=3)
    assert isinstance(begun, Controller)
    assert begun.knowledge.card.normal == learned.card.normal
    one = begun.critic.decide([0.5] * 26, begun.critic.policy.fresh_memory())[0]
    fresh = Controller(LSTMController.from_dict(BUSY), chosen, claims, seed=3)
    assert one != fresh.critic.decide([0.5] * 26, fresh.critic.policy.fresh_memory())[0]


def test_a_controller_that_no_longer_learns_is_left_as_it_is_and_tries_nothing(
    design: Design, claims: Dataset, learned: Knowledge, tmp_path: Path
):
    learned.save(tmp_path)
    chosen = started(design, tmp_path, learns=False, sample=1000)
    first, controller = trained(chosen, claims)
    weights = {name: value for name, value in controller.critic.tensors().items() if name.startswith("policy")}
    assert all(torch.equal(value, learned.tensors[name]) for name, value in weights.items())
    second = Trainer(chosen, claims, device="cpu", callbacks=callbacks_of(chosen, claims, seed=99)).fit()
    assert controller.trace == second.callbacks["controller"]["trace"]
    again, _ = trained(chosen, claims)
    assert_same_fit(first, again)


def test_a_training_that_goes_on_does_not_read_what_it_began_with(
    design: Design, claims: Dataset, learned: Knowledge, tmp_path: Path
):
    start, checkpoints = tmp_path / "start", tmp_path / "checkpoints"
    learned.save(start)
    chosen = started(design, start)
    whole, controller = trained(chosen, claims)
    made: list[Controller] = []

    def callbacks():
        if checkpoints.exists():
            rmtree(start, ignore_errors=True)
        found = callbacks_of(chosen, claims, seed=0, checkpoints=checkpoints)
        made.extend(each for each in found if isinstance(each, Controller))
        return found

    parts = fit_in_parts(chosen, claims, checkpoints, stops=(7, 16), callbacks=callbacks)
    assert not start.exists()
    assert_same_fit(whole, parts)
    one, other = controller.knowledge, made[-1].knowledge
    assert one.card == other.card
    assert all(torch.equal(one.tensors[name], value) for name, value in other.tensors.items())
    with pytest.raises(StorageError, match="holds no controller"):
        callbacks_of(chosen, claims, seed=0, checkpoints=tmp_path / "nothing saved")


def test_another_content_is_another_design_and_a_changed_folder_is_refused(
    design: Design, claims: Dataset, learned: Knowledge, tmp_path: Path
):
    learned.save(tmp_path)
    chosen = started(design, tmp_path)
    changed = Knowledge(learned.card.model_copy(update={"runs": 7}), learned.tensors)
    changed.save(tmp_path)
    assert started(design, tmp_path).content_hash() != chosen.content_hash()
    with pytest.raises(ConfigError, match="it has been changed since"):
        callbacks_of(chosen, claims, seed=0)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("hidden", 16, "learned with hidden=8, but the settings have hidden=16: --set controller.hidden=8"),
        ("layers", 2, "learned with layers=1, but the settings have layers=2"),
    ],
)
def test_a_controller_of_another_size_is_refused(
    design: Design, claims: Dataset, learned: Knowledge, tmp_path: Path, setting: str, value: int, message: str
):
    learned.save(tmp_path)
    with pytest.raises(ConfigError, match=message):
        callbacks_of(started(design, tmp_path, **{setting: value}), claims, seed=0)


def test_a_controller_with_other_inputs_is_refused(learned: Knowledge, tmp_path: Path):
    other = learned.card.model_copy(update={"inputs": ("loss", "rate")})
    Knowledge(other, learned.tensors).save(tmp_path)
    spec = LSTMController.from_dict({**BUSY, "start": str(tmp_path), "content": content_of(tmp_path)})
    with pytest.raises(ConfigError, match=r"has the inputs loss, rate, but this version has .* Learn it again"):
        knowledge_for(spec)


def test_what_is_not_a_controller_is_refused_in_one_line(learned: Knowledge, tmp_path: Path):
    with pytest.raises(StorageError, match=r"holds no controller\. Learn one: chiasma meta-train"):
        content_of(tmp_path / "nowhere")
    save_checkpoint(tmp_path / "other", 0, tensors={}, documents={"design": {}})
    with pytest.raises(StorageError, match="not one of a controller"):
        content_of(tmp_path / "other")
    learned.save(tmp_path / "damaged")
    (file,) = (tmp_path / "damaged").glob("step-*/controller.safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"xxxx")
    with pytest.raises(CorruptFileError):
        content_of(tmp_path / "damaged")


def test_start_and_content_belong_together():
    with pytest.raises(ConfigError, match="start and content belong together"):
        LSTMController.from_dict({"start": "folder"})
    with pytest.raises(ConfigError, match="give it a start"):
        LSTMController.from_dict({"learns": False})


def test_a_controller_learns_on_from_what_it_knew(design: Design, claims: Dataset, learned: Knowledge, tmp_path: Path):
    learned.save(tmp_path)
    _, controller = trained(started(design, tmp_path), claims)
    assert any(not torch.equal(controller.knowledge.tensors[name], value) for name, value in learned.tensors.items())
    assert replace_at(design, "training.controller", None).training.controller is None
