"""Begin with the weights of another training."""

import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.evaluate.evaluator import Evaluator
from chiasma.evaluate.tasks import Task
from chiasma.model.inherit import begin_with
from chiasma.train.initial import kept_weights
from chiasma.train.trainer import Trainer
from tests.evaluate.test_trial import LINEAR


@pytest.fixture(scope="module")
def parent(claims, tmp_path_factory):
    """The folder of a kept training."""
    folder = tmp_path_factory.mktemp("parent")
    Evaluator()(
        Task(dataset=str(claims.folder), metric="accuracy").job("a", LINEAR, seed=0, keep_checkpoint=str(folder))
    )
    return folder


def test_a_child_of_the_same_shape_begins_where_its_parent_ended(parent, claims):
    child = replace_at(LINEAR, "training.optim.lr", 1e-12)
    fit = Trainer(child, claims, device="cpu", start_from=parent).fit()
    assert all(torch.allclose(value, fit.model.state_dict()[name]) for name, value in kept_weights(parent).items())


def test_what_has_another_shape_or_name_begins_afresh(parent, claims):
    wider = replace_at(LINEAR, "model.encoders.text.buckets", 128)
    model = wider.model.build(claims.signature)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = kept_weights(parent)
    copied = begin_with(model, weights)
    assert copied
    assert any(not torch.equal(before[name], weights[name]) for name in copied)
    rest = set(before) - set(copied)
    assert rest
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in rest)


def test_a_parent_that_was_not_kept_is_an_error(claims, tmp_path):
    with pytest.raises(FileNotFoundError, match="No trained model was kept"):
        Trainer(LINEAR, claims, device="cpu", start_from=tmp_path)


def test_a_checkpoint_of_another_beginning_is_not_continued(parent, claims, tmp_path):
    Trainer(LINEAR, claims, device="cpu", checkpoints=tmp_path).fit()
    with pytest.raises(ConfigError, match="belongs to another training"):
        Trainer(LINEAR, claims, device="cpu", checkpoints=tmp_path, start_from=parent).fit()
