"""Meta-training: many short, varied trainings, one controller, and neither select nor test is looked at."""

from functools import partial
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch

from chiasma.adapt.learned import content_of, load_knowledge
from chiasma.core.errors import ConfigError, StorageError
from chiasma.data.dataset import Dataset
from chiasma.data.prepare import prepare
from chiasma.experiment import train_run
from chiasma.experiment.beginning import StoppedTooSoonError
from chiasma.experiment.compose import config_of, load_config
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import SilentConsole
from chiasma.experiment.meta_train import FOLDER, MetaResult, lesson, meta_train, resume, spec_of
from chiasma.experiment.runs import read_results, resume_run
from chiasma.store.checkpoint import save_checkpoint
from chiasma.train.controlling import LSTMController
from tests.experiment.test_evolve import TalkingConsole


class Told(SilentConsole):
    """Remembers what was said; interrupts after some lines."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.stop_after = stop_after

    @property
    def interrupted(self) -> bool:
        begun = any(line.startswith("run ") for line in self.lines)
        done = sum(line.startswith("training ") for line in self.lines)
        return self.stop_after is not None and begun and done >= self.stop_after

    def say(self, text: str) -> None:
        self.lines.append(text)


def config(folder: Path, **values) -> RunConfig:
    chosen = {
        "data.rows": 300,
        "model.dim": 16,
        "model.encoders": {"text": {"kind": "ngram", "buckets": 64}},
        "train.epochs": 3,
        "train.evaluations": 2,
        "run.folder": str(folder / "runs"),
        "run.cache": str(folder / "cache"),
        "run.device": "cpu",
        "controller": {"kind": "lstm", "every": 3, "sample": 16, "share": 1.0, "window": 2, "hidden": 8},
    }
    return load_config(values={**chosen, **values})


def test_trainings_vary_in_rate_design_and_seed_and_follow_from_the_run_s_seed(tmp_path: Path):
    settings = config(tmp_path)
    dataset, _ = prepare(settings.data, seed=0, cache=tmp_path / "cache")
    lessons = [lesson(settings, dataset, number) for number in range(20)]
    rates = [each.design.training.optim.lr / settings.optim.lr for each in lessons]
    assert min(rates) >= 0.1
    assert max(rates) <= 10
    assert min(rates) < 0.3
    assert max(rates) > 3
    assert len({each.seed for each in lessons}) == 20
    assert len({each.design.model.dim for each in lessons}) > 1
    assert len({str(each.design.model.fusion) for each in lessons}) > 2
    assert lesson(settings, dataset, 4) == lessons[4]


def test_a_controller_is_learned_saved_and_used(tmp_path: Path):
    console = Told()
    result = meta_train(config(tmp_path), runs=3, to=tmp_path / "learned", console=console)
    assert (result.runs, result.stopped) == (3, "finished")
    assert sum(line.startswith("training ") for line in console.lines) == 3
    assert load_knowledge(tmp_path / "learned").card.runs == 3
    used = config(tmp_path, **{"controller.start": str(tmp_path / "learned")})
    assert isinstance(used.controller, LSTMController)
    assert used.controller.content == result.content
    assert RunConfig.from_dict(used.to_dict()) == used
    with pytest.raises(StorageError, match="is a meta-training"):
        read_results(result.run_path)


def test_sizes_that_nobody_chose_are_those_that_a_controller_was_learned_with(tmp_path: Path):
    meta_train(config(tmp_path), runs=1, to=tmp_path / "learned", console=Told())
    plain = {"controller": {"kind": "lstm", "start": str(tmp_path / "learned")}}
    used = load_config(values=plain)
    assert isinstance(used.controller, LSTMController)
    assert (used.controller.hidden, used.controller.layers) == (8, 1)
    for layer in (plain, used.to_dict()):
        with pytest.raises(ConfigError, match=r"was learned with hidden=8, but the settings have hidden=32: --set"):
            load_config(values={**layer, "controller.hidden": 32})
    rmtree(tmp_path / "learned")
    with pytest.raises(StorageError, match="holds no controller"):
        config_of(used.to_dict())


def test_a_training_that_began_with_a_controller_goes_on_without_it(tmp_path: Path):
    meta_train(config(tmp_path), runs=1, to=tmp_path / "learned", console=Told())
    used = config(tmp_path, **{"controller.start": str(tmp_path / "learned")})
    first = train_run.train(used, console=TalkingConsole("step "))
    assert first is not None
    assert first.stopped == "interrupted"
    rmtree(tmp_path / "learned")
    second = train_run.resume(first.run_path, console=TalkingConsole())
    assert second is not None
    assert second.stopped == "finished"
    assert "Whether the controller paid is not compared here" in second.report_path.read_text()


def test_controls_without_a_place_are_told_and_nothing_but_them_is_refused(tmp_path: Path):
    told = TalkingConsole()
    train_run.train(config(tmp_path, **{"controller.controls": ["rate", "structure"]}), console=told)
    (line,) = (line for line in told.lines if "sets nothing" in line)
    assert "by structure: structure needs a trunk that grows" in line
    alone = config(tmp_path, **{"controller.controls": ["structure"], "run.folder": str(tmp_path / "others")})
    for verb in (train_run.train, partial(meta_train, runs=1)):
        with pytest.raises(ConfigError, match="the controller would set nothing in this design"):
            verb(alone, console=Told())
    assert not (tmp_path / "others").exists()


def test_a_meta_training_that_is_stopped_learns_on_to_the_same_controller(tmp_path: Path):
    whole = meta_train(config(tmp_path), runs=3, console=Told())
    first = meta_train(config(tmp_path), runs=3, console=Told(stop_after=1))
    assert (first.runs, first.stopped) == (1, "interrupted")
    second = resume_run(first.run_path, budget=None, console=Told())
    assert isinstance(second, MetaResult)
    assert (second.runs, second.stopped) == (3, "finished")
    one, other = load_knowledge(whole.folder), load_knowledge(second.folder)
    assert one.card.normal == other.card.normal
    assert all((one.tensors[name] == value).all() for name, value in other.tensors.items())


def test_neither_select_nor_test_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: set[str] = set()
    rows, test_rows = Dataset.rows, Dataset.test_rows

    def watched(self: Dataset, split: str):
        asked.add(split)
        return rows(self, split)

    def sealed(self: Dataset, *given, **named):
        asked.add("test")
        return test_rows(self, *given, **named)

    settings = config(tmp_path)
    prepare(settings.data, seed=0, cache=tmp_path / "cache")
    monkeypatch.setattr(Dataset, "rows", watched)
    monkeypatch.setattr(Dataset, "test_rows", sealed)
    meta_train(settings, runs=1, console=Told())
    assert asked == {"train", "steer"}


def test_a_meta_training_stopped_before_its_first_training_can_be_continued(tmp_path: Path):
    with pytest.raises(StoppedTooSoonError, match="chiasma resume"):
        meta_train(config(tmp_path), runs=2, console=Told(stop_after=0))
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("meta-train"))
    assert not (run / FOLDER).exists()
    assert resume(run, console=Told()).runs == 2


def files_of(folder: Path) -> dict[str, bytes]:
    """Return everything in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_that_another_run_has_made_is_deleted(tmp_path: Path):
    place = tmp_path / "kept"
    save_checkpoint(place, 0, tensors={"model": {"weight": torch.ones(2)}}, documents={"design": {}})
    before = files_of(place)
    with pytest.raises(ConfigError, match=r"holds other things \(step-00000000\).* choose an empty folder"):
        meta_train(config(tmp_path), runs=1, to=place, console=Told())
    assert not (tmp_path / "runs").exists()
    first = meta_train(config(tmp_path), runs=1, to=tmp_path / "learned", console=Told())
    with pytest.raises(ConfigError, match="holds other things"):
        meta_train(config(tmp_path), runs=1, to=tmp_path / "learned", console=Told())
    assert content_of(tmp_path / "learned") == first.content
    assert files_of(place) == before


def test_a_resumed_run_replaces_its_own_controller_and_no_other(tmp_path: Path):
    place = tmp_path / "learned"
    place.mkdir()
    first = meta_train(config(tmp_path), runs=2, to=place, console=Told(stop_after=1))
    assert (first.runs, load_knowledge(place).card.runs) == (1, 1)
    (place / "step-00000002.tmp").mkdir()
    assert resume(first.run_path, console=Told()).runs == 2
    assert load_knowledge(place).card.runs == 2
    other = meta_train(config(tmp_path), runs=2, to=tmp_path / "other", console=Told(stop_after=1))
    rmtree(tmp_path / "other")
    copytree(place, tmp_path / "other")
    console = Told()
    with pytest.raises(ConfigError, match=r"holds other things \(step-00000002\)"):
        resume(other.run_path, console=console)
    assert not any(line.startswith("training ") for line in console.lines)
    assert content_of(tmp_path / "other") == content_of(place)


def test_what_cannot_learn_or_has_no_place_is_refused_before_anything_is_trained(tmp_path: Path):
    with pytest.raises(ConfigError, match="meta-train learns an lstm"):
        spec_of(config(tmp_path, controller={"kind": "hypergradient"}))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    for place, message in (
        (tmp_path / "taken", "holds other things"),
        (tmp_path / "a" / "b", "inside one that exists"),
    ):
        with pytest.raises(ConfigError, match=message):
            meta_train(config(tmp_path), runs=1, to=tmp_path / place, console=Told())
    assert not (tmp_path / "runs").exists()
