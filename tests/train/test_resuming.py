"""The resume law: a training that was stopped anywhere continues to the same bits."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.data.signature import Signature
from chiasma.store.checkpoint import load_newest
from chiasma.train.callbacks import Callback, ScaleLearningRate
from chiasma.train.design import Design
from chiasma.train.fit import Fit
from chiasma.train.trainer import Trainer
from tests.train.toys import BIRTH, DEATH, At, StopAfter

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def everything(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Return all tensors and documents of the newest checkpoint, without durations."""
    found = load_newest(folder)
    assert found is not None
    tensors = {f"{group}/{name}": t for group in found.tensor_names for name, t in found.tensors(group).items()}
    state = found.documents["state"]
    del state["training"]["seconds"]
    return tensors, {**found.documents, "state": state}


def assert_same(left: Path, right: Path) -> None:
    (tensors, documents), (other_tensors, other_documents) = everything(left), everything(right)
    assert documents == other_documents
    assert tensors.keys() == other_tensors.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])] == []


def assert_same_fit(left: Fit, right: Fit) -> None:
    assert (left.history, left.best, left.steps, left.stopped) == (
        right.history,
        right.best,
        right.steps,
        right.stopped,
    )
    weights, others = left.model.state_dict(), right.model.state_dict()
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


def fit_in_parts(
    design: Design,
    data: Dataset,
    folder: Path,
    *,
    stops: tuple[int, ...],
    callbacks: Callable[[], list[Callback]] = list,
) -> Fit:
    """Fit with a new trainer for each part, interrupted after the given steps."""
    for step in stops:
        progress = StopAfter(step)
        progress.trainer = Trainer(
            design, data, checkpoints=folder, device="cpu", callbacks=callbacks(), progress=progress
        )
        assert progress.trainer.fit().stopped == "interrupted"
    return Trainer(design, data, checkpoints=folder, device="cpu", callbacks=callbacks()).fit()


@pytest.fixture(scope="module")
def never_stopped(design: Design, claims: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fit, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return Trainer(design, claims, checkpoints=folder, device="cpu").fit(), folder


@pytest.fixture
def whole(never_stopped: tuple[Fit, Path], tmp_path: Path) -> tuple[Fit, Path]:
    """Return a training that was never interrupted, and a copy of its checkpoints."""
    fit, folder = never_stopped
    return fit, Path(shutil.copytree(folder, tmp_path / "whole"))


@pytest.mark.parametrize("stops", [(1,), (8,), (3, 13, 14, 27)], ids=str)
def test_an_interrupted_training_continues_to_the_same_bits(
    stops: tuple[int, ...], whole: tuple[Fit, Path], design: Design, claims: Dataset, folder: Path
):
    fit, uninterrupted = whole
    assert_same_fit(fit, fit_in_parts(design, claims, folder, stops=stops))
    assert_same(uninterrupted, folder)


@pytest.mark.parametrize("stops", [(5,), (8, 21)], ids=str)
def test_an_augmented_training_continues_to_the_same_bits(
    stops: tuple[int, ...], design: Design, claims: Dataset, tmp_path: Path
):
    augment = {"crop": 0.2, "flip": True, "colour": 0.3, "erase": 0.5, "trivial": True, "word_dropout": 0.1}
    design = replace_at(design, "training.loop.augment", augment | {"modality_dropout": 0.2})
    whole = Trainer(design, claims, checkpoints=tmp_path / "whole", device="cpu").fit()
    assert_same_fit(whole, fit_in_parts(design, claims, tmp_path / "parts", stops=stops))
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_every_optimiser_continues_to_the_same_bits(kind: str, design: Design, claims: Dataset, tmp_path: Path):
    design = replace_at(design, "training.optim.algorithm", {"kind": kind})
    whole = Trainer(design, claims, checkpoints=tmp_path / "whole", device="cpu").fit()
    assert_same_fit(whole, fit_in_parts(design, claims, tmp_path / "parts", stops=(9,)))
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("stops", [(12,), (13, 20), (26,)], ids=str)
def test_a_training_continues_to_the_same_bits_across_a_birth_and_a_death(
    stops: tuple[int, ...], design: Design, claims: Dataset, tmp_path: Path
):
    def callbacks() -> list[Callback]:
        return [At({12: BIRTH, 15: ScaleLearningRate({"fusion.newcomer": 3.0}), 20: DEATH, 24: BIRTH})]

    whole = Trainer(design, claims, checkpoints=tmp_path / "whole", device="cpu", callbacks=callbacks()).fit()
    parts = fit_in_parts(design, claims, tmp_path / "parts", stops=stops, callbacks=callbacks)
    assert_same_fit(whole, parts)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_training_returns_at_once_with_the_same_result(
    whole: tuple[Fit, Path], design: Design, claims: Dataset
):
    fit, folder = whole
    before = sorted(path.name for path in folder.iterdir())
    again = Trainer(design, claims, checkpoints=folder, device="cpu", progress=StopAfter(1)).fit()
    assert_same_fit(fit, again)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_checkpoints_change_nothing(whole: tuple[Fit, Path], design: Design, claims: Dataset, folder: Path):
    fit, _ = whole
    assert_same_fit(fit, Trainer(design, claims, device="cpu").fit())
    assert_same_fit(fit, Trainer(design, claims, device="cpu", checkpoints=folder, checkpoint_every_seconds=0).fit())
    assert_same(whole[1], folder)


def test_a_damaged_newest_checkpoint_falls_back_and_still_ends_in_the_same_bits(
    whole: tuple[Fit, Path], design: Design, claims: Dataset, folder: Path
):
    for step in (7, 11):
        progress = StopAfter(step)
        progress.trainer = Trainer(design, claims, checkpoints=folder, device="cpu", progress=progress)
        progress.trainer.fit()
    newest = max(folder.iterdir())
    damaged = bytearray((newest / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (newest / "model.safetensors").write_bytes(damaged)
    assert_same_fit(whole[0], Trainer(design, claims, checkpoints=folder, device="cpu").fit())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"fraction": 0.5}, "fraction is 1.0 there and 0.5 here"),
        ({"metric": "log_loss"}, "metric is 'accuracy' there and 'log_loss' here"),
        ({"callbacks": [At({})]}, "callbacks is .* there and .*at.* here"),
    ],
    ids=["seed", "fraction", "metric", "callbacks"],
)
def test_a_checkpoint_of_another_training_is_refused_with_both_values(
    change: dict, message: str, whole: tuple[Fit, Path], design: Design, claims: Dataset
):
    with pytest.raises(ConfigError, match=f"belongs to another training: {message}"):
        Trainer(design, claims, checkpoints=whole[1], device="cpu", **change).fit()


def test_a_checkpoint_of_another_design_is_refused_with_both_hashes(
    whole: tuple[Fit, Path], design: Design, claims: Dataset
):
    other = replace_at(design, "training.optim.lr", 0.5)
    with pytest.raises(ConfigError, match=f"design is '{design.content_hash()}' there and '{other.content_hash()}'"):
        Trainer(other, claims, checkpoints=whole[1], device="cpu").fit()


def test_a_checkpoint_of_other_data_is_refused(
    whole: tuple[Fit, Path], design: Design, tmp_path_factory: pytest.TempPathFactory
):
    other, _ = prepare(DataSpec(rows=300), seed=0, cache=tmp_path_factory.mktemp("other"))
    with pytest.raises(ConfigError, match=r"data is .* there and .* here"):
        Trainer(design, other, checkpoints=whole[1], device="cpu").fit()


def test_another_environment_is_a_warning_that_bits_may_differ(design: Design, claims: Dataset, folder: Path):
    progress = StopAfter(3)
    progress.trainer = Trainer(design, claims, checkpoints=folder, device="cpu", progress=progress)
    progress.trainer.fit()
    other = Trainer(design, claims, checkpoints=folder, device="cpu", precision="bfloat16")
    with pytest.warns(UserWarning, match="precision float32 there, bfloat16 here.*last bits may differ"):
        assert other.fit().stopped == "finished"


def test_the_checkpoint_holds_the_design_and_signature_from_which_its_weights_load(
    whole: tuple[Fit, Path], design: Design, claims: Dataset
):
    found = load_newest(whole[1])
    assert found is not None
    assert Design.from_dict(found.documents["design"]) == design
    signature = Signature.from_dict(found.documents["signature"])
    design.model.build(signature).load_state_dict(found.tensors("best"), strict=True)


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_in_the_same_bits():
    command = [sys.executable, str(BENCHMARKS / "resume_after_kill.py"), "--repeats", "3", "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert "identical 3/3" in done.stdout, done.stdout + done.stderr
