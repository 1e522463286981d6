"""``train`` of a design whose source nobody has approved: stopped, killed and resumed, under limits of the settings."""

import hashlib
import re
from pathlib import Path

import pytest

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.core.files import read_json, write_json
from chiasma.core.outcome import Scored
from chiasma.evaluate import jailed_trial
from chiasma.evaluate.jail import Jail, Layers
from chiasma.experiment.beginning import StoppedTooSoonError
from chiasma.experiment.compose import load_config
from chiasma.experiment.jail_terms import alone, jail_terms, lesser_jail
from chiasma.experiment.runs import read_results
from chiasma.experiment.train_run import resume, train
from chiasma.model.generated import approve_in_this_process, withdraw_approval
from chiasma.store.run import RunStore
from tests.evaluate.corpus import OWN
from tests.experiment.test_evolve import TalkingConsole, home

__all__ = ["home"]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("jailed_train")]
HONEST = (OWN / "honest_04_hand_written_attention.py").read_text()


def forward_begins_with(*lines: str) -> str:
    source = HONEST.splitlines()
    place = next(number for number, line in enumerate(source) if "def forward(self" in line) + 1
    return "\n".join([*source[:place], *(f"        {line}" for line in lines), *source[place:], ""])


ENDLESS = forward_begins_with("while self.training and image_tokens.shape[0] > 20:", "    pass")
LARGE = forward_begins_with("scratch = torch.ones(2**26)")


class Impatient(TalkingConsole):
    """Is interrupted at its so many-th look at the clock of the jail."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def interrupted(self) -> bool:
        return self.looks <= 0

    def status(self, text: str) -> None:
        self.looks -= "in the jail for" in text


def config(runs: Path, *settings: str, source: str = HONEST):
    overrides = [f"run.folder={runs}", "data.rows=320", "train.epochs=2", "model.dim=8", *settings]
    given = load_config(None, overrides=overrides)
    fusion = {"kind": "generated", "source": source}
    return type(given).from_dict({**given.to_dict(), "model": {**given.model.to_dict(), "fusion": fusion}})


def status(run: Path) -> str:
    with RunStore.open(run) as store:
        return store.status


def test_ctrl_c_hands_back_the_best_so_far_and_the_resumed_run_is_the_uninterrupted_one(home, tmp_path):
    whole = train(config(tmp_path / "whole"), console=TalkingConsole())
    console = Impatient(3)
    stopped = train(config(tmp_path / "runs", "train.epochs=4000"), console=console)
    assert whole is not None
    assert stopped is not None
    assert (stopped.stopped, status(stopped.run_path)) == ("interrupted", "stopped")
    assert any("Ctrl-C hands back the best so far; resumed, it begins again" in line for line in console.lines)
    assert read_results(stopped.run_path).arms[0].select["accuracy"] > 0.3
    # The rest of 4,000 epochs is for nobody's patience: the settings on disk become those of the short run.
    (stopped.run_path / "config.json").write_text(
        (whole.run_path / "config.json").read_text().replace(str(tmp_path / "whole"), str(tmp_path / "runs"))
    )
    again = resume(stopped.run_path, console=TalkingConsole())
    assert again is not None
    assert (again.stopped, again.results.history) == ("finished", whole.results.history)
    assert again.results.arms[0].select == whole.results.arms[0].select


def kept_files(run: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in (run / "trained").rglob("*") if file.is_file()}


def say_error(run: Path, error: float) -> None:
    """Have what stands say that it is so good, so that it does not hang on chance which attempt is better."""
    file = run / "trained" / "jailed" / "outcome.json"
    known = read_json(file)
    known["outcome"]["objectives"]["error"] = error
    write_json(file, known)


def said_of_attempts(result) -> str:
    (note,) = (note for note in result.results.notes if "attempt" in note)
    return note


def test_ctrl_c_in_a_resumed_training_keeps_the_better_of_the_two_and_says_which(home, tmp_path):
    first = train(config(tmp_path, "train.epochs=4000"), console=Impatient(10))
    assert first is not None
    run = first.run_path
    say_error(run, -1.0)
    before, console = kept_files(run), Impatient(1)
    second = resume(run, console=console)
    assert second is not None
    assert (second.stopped, status(run)) == ("interrupted", "stopped")
    assert kept_files(run) == before
    assert read_results(run).arms[0].select == first.results.arms[0].select
    assert second.results.notes[0] == first.results.notes[0]
    assert said_of_attempts(second) in console.lines
    assert re.match(r"The earlier attempt \(step \d+, accuracy .* stands: the new attempt", said_of_attempts(second))
    say_error(run, 2.0)
    third = resume(run, console=Impatient(1))
    assert third is not None
    assert said_of_attempts(third).startswith("The new attempt")
    assert read_json(run / "trained" / "jailed" / "outcome.json")["outcome"]["objectives"]["error"] <= 1.0


def test_an_attempt_with_nothing_to_hand_back_leaves_the_earlier_one_standing(home, tmp_path, monkeypatch):
    first = train(config(tmp_path, "train.epochs=4000"), console=Impatient(3))
    assert first is not None
    before = kept_files(first.run_path)
    monkeypatch.setattr("chiasma.experiment.jailed_train.GRACE_SECONDS", 0.0)
    with pytest.raises(StoppedTooSoonError, match="What an earlier attempt left stands"):
        resume(first.run_path, console=Impatient(1))
    assert before
    assert kept_files(first.run_path) == before


def test_a_kill_between_the_choice_and_the_move_loses_no_attempt(home, tmp_path):
    first = train(config(tmp_path), console=TalkingConsole())
    assert first is not None
    kept = first.run_path / "trained" / "jailed"
    kept.rename(kept.with_name("jailed-attempt"))
    console = TalkingConsole()
    again = resume(first.run_path, console=console)
    assert again is not None
    assert again.results.arms[0].select == first.results.arms[0].select
    assert not any("training in the jail" in line for line in console.lines)
    assert kept.is_dir()


def test_a_run_whose_source_is_trusted_no_longer_is_not_resumed_with_settings_that_the_jail_cannot_follow(
    home, tmp_path, monkeypatch
):
    sha256 = hashlib.sha256(HONEST.encode()).hexdigest()
    approve_in_this_process(sha256)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("chiasma.experiment.train_run._train", _cut_off)
            with pytest.raises(KeyboardInterrupt):
                train(config(tmp_path, "run.compile=true"), console=TalkingConsole())
    finally:
        withdraw_approval(sha256)
    (run,) = tmp_path.iterdir()
    before = status(run)
    words = rf"run\.compile: source that nobody .*config show --config .*config\.json --trust {sha256}"
    with pytest.raises(ConfigError, match=words):
        resume(run, console=Impatient(1))
    assert status(run) == before
    assert not (run / "trained").exists()


def test_a_module_that_does_not_stop_is_killed_and_the_run_can_be_begun_again(home, tmp_path, monkeypatch):
    monkeypatch.setattr("chiasma.experiment.jailed_train.GRACE_SECONDS", 0.2)
    with pytest.raises(StoppedTooSoonError, match=r"nothing to hand back .*chiasma resume") as caught:
        train(config(tmp_path, source=ENDLESS), console=Impatient(4))
    (run,) = tmp_path.iterdir()
    assert str(run) in str(caught.value)
    assert status(run) != "failed"


def test_what_ended_in_the_jail_is_not_trained_again_where_only_the_report_was_cut_off(home, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("chiasma.experiment.train_run._write_down", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config(tmp_path), console=TalkingConsole())
    (run,) = tmp_path.iterdir()
    console = TalkingConsole()
    finished = resume(run, console=console)
    assert finished is not None
    assert finished.stopped == "finished"
    assert not any("training in the jail" in line for line in console.lines)


def _cut_off(*everything: object, **more: object) -> None:
    raise KeyboardInterrupt


def test_limits_follow_the_settings(home, tmp_path):
    short = load_config(None, overrides=["run.budget=10m", "run.workers=2"])
    long = load_config(None, overrides=["run.budget=3h", "run.workers=4"])
    assert jail_terms(short)["jail_seconds"] == 3600
    assert jail_terms(long)["jail_seconds"] == 3 * 3600
    assert jail_terms(short)["jail_memory_bytes"] == 2 * jail_terms(long)["jail_memory_bytes"]
    assert alone(short)["finish_within_seconds"] is None
    assert alone(short)["jail_memory_bytes"] == 2 * jail_terms(short)["jail_memory_bytes"]
    own = load_config(None, overrides=["evaluate.jail_seconds=90", "evaluate.jail_gib=2"])
    assert jail_terms(own)["jail_seconds"] == alone(own)["finish_within_seconds"] == 90
    assert jail_terms(own)["jail_memory_bytes"] == 2 * 2**30


def test_a_limit_of_time_cuts_a_training_short_and_one_of_memory_refuses_it(home, tmp_path):
    cut = train(config(tmp_path / "time", "train.epochs=4000", "evaluate.jail_seconds=3"), console=TalkingConsole())
    assert cut is not None
    assert cut.stopped == "finished"
    assert "(deadline)" in cut.results.notes[0]
    with pytest.raises(ChiasmaError, match="out of memory"):
        train(config(tmp_path / "memory", "evaluate.jail_gib=0.2", source=LARGE), console=TalkingConsole())


def test_a_lesser_jail_is_told_in_the_notes_of_a_training(home, tmp_path, monkeypatch):
    with Jail(layers=Layers(landlock=False, seccomp=False), accept_lesser=True) as lesser:
        monkeypatch.setattr(jailed_trial, "shared_jail", lambda *, accept_lesser=False: lesser)
        done = train(config(tmp_path, "evaluate.accept_lesser_jail=true"), console=TalkingConsole())
    assert done is not None
    assert any("ran in a lesser jail" in note and "kernel" in note for note in done.results.notes)
    assert "ran in a lesser jail" in (done.run_path / "report.html").read_text()
    assert lesser_jail([Scored(objectives={}, metrics={"jailed": 1.0})]) == []
