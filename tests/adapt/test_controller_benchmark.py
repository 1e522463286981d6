"""What ``benchmarks/controller.py`` keeps is found again under the options that it was measured with, and no others."""

from pathlib import Path

from benchmarks.controller import ARMS, EPOCHS, LESSONS, Job, learned_folder


def place(arm: str, *, lessons: int = LESSONS, epochs: float = EPOCHS, rows: int | None = None) -> str:
    return Job(arm, "good", 51, epochs, rows, "out", "start", lessons).place.name


def test_only_the_learned_arm_depends_on_how_long_its_controller_has_learned():
    assert [arm for arm in ARMS if place(arm, lessons=4) != place(arm, lessons=LESSONS)] == ["learned"]
    assert place("learned", lessons=4) != place("learned", lessons=8)


def test_what_was_measured_with_the_usual_options_keeps_its_name():
    assert place("every control") == "every_control-good-51-15-all.json"
    assert place("learned") == "learned-good-51-15-all.json"
    assert learned_folder(Path("out"), lessons=LESSONS, rows=None, epochs=EPOCHS) == Path("out/controller-40-all")


def test_a_controller_of_longer_trainings_is_another_one():
    folders = {learned_folder(Path("out"), lessons=4, rows=rows, epochs=e) for rows in (None, 9) for e in (4.0, 15.0)}
    assert len(folders) == 4
