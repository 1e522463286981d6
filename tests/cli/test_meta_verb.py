"""``chiasma meta-train``, and a training that begins with what it learned."""

from pathlib import Path

from tests.cli.conftest import SETTINGS, invoke

OFTEN = ("controller.every=3", "controller.sample=16", "controller.share=1", "train.epochs=3")
SMALL = ("--config", "quick", "--set", *SETTINGS, "controller.kind=lstm", "controller.hidden=8", *OFTEN)


def test_a_controller_is_learned_shown_and_put_to_use(tmp_path: Path):
    folder = ("--run-folder", str(tmp_path / "runs"))
    learned = invoke("meta-train", *SMALL, *folder, "--runs", "1", "--to", str(tmp_path / "kept"))
    assert learned.exit_code == 0, learned.output
    assert "learned from 1 training\n" in learned.stdout
    (line,) = (line for line in learned.stdout.splitlines() if line.startswith("use it"))
    words = line.split()[3:]
    assert words == ["train", "--set", "controller.kind=lstm", f"controller.start={tmp_path / 'kept'}"]
    # As a user would give it: with other settings, but none of the controller's size.
    used = invoke(*words, *SETTINGS, *OFTEN, "--config", "quick", *folder)
    assert used.exit_code == 0, used.output
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("train"))
    page = (run / "report.html").read_text()
    assert "What the controller did" in page
    assert "its measuring on steer, every 3 steps" in page
    shown = invoke("show", run.name, *folder)
    assert "lstm(" in shown.stdout
    listed = invoke("list", "runs", *folder)
    assert listed.exit_code == 0
    assert "meta-train" in listed.stdout


def test_a_controller_that_is_not_there_is_one_line(tmp_path: Path):
    result = invoke("train", "--set", "controller.kind=lstm", f"controller.start={tmp_path / 'nowhere'}")
    assert result.exit_code == 1
    assert "holds no controller. Learn one: chiasma meta-train" in result.stderr
