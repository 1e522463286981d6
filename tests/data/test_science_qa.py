"""The reader on the first problems of ScienceQA, and on small sets in its two layouts, written here."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chiasma.core.errors import DataError
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec, read
from chiasma.data.prepare import prepare
from chiasma.data.report import DataReport
from tests.small_science_qa import COUNTS, Small, problem


@pytest.fixture
def small() -> Small:
    return Small()


def look(source: Path, **settings) -> tuple[Dataset, DataReport]:
    return prepare(DataSpec.from_dict({"source": str(source), **settings}), seed=0, cache=source.parent / "cache")


def test_counts_by_split_subject_and_context_are_those_of_its_own_files(third_party):
    folder = third_party("scienceqa_partial")
    frame = read(DataSpec(source=str(folder))).frame
    problems = json.loads((folder / "problems.json").read_text())
    subjects = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
    assert Counter(frame["split"]) == Counter(each["split"] for each in problems.values())
    found = Counter((split, slices[0][0]) for split, slices in zip(frame["split"], frame["slices"], strict=True))
    assert found == Counter((each["split"], subjects[each["subject"]]) for each in problems.values())
    contexts = Counter(
        (split, value) for split, slices in zip(frame["split"], frame["slices"], strict=True) for value in slices[1]
    )
    expected: Counter[tuple[str, str]] = Counter()
    for each in problems.values():
        expected[each["split"], "TXT"] += bool(each["hint"])
        expected[each["split"], "IMG"] += bool(each["image"])
        expected[each["split"], "NO"] += not each["hint"] and not each["image"]
    assert contexts == expected
    grades = Counter(slices[2][0] for slices in frame["slices"])
    assert grades["G7-12"] == sum(int(each["grade"].removeprefix("grade")) > 6 for each in problems.values())
    assert frame["label"].tolist() == ["ABCDE"[each["answer"]] for each in problems.values()]
    assert [len(each) for each in frame["allowed"]] == [len(each["choices"]) for each in problems.values()]


def test_the_partial_data_are_prepared_as_they_are_and_say_that_images_are_missing(third_party, tmp_path):
    spec = DataSpec(source=str(third_party("scienceqa_partial")))
    dataset, report = prepare(spec, seed=0, cache=tmp_path)
    assert dataset.test_count == 361
    assert dataset.signature.target.labels == ("A", "B", "C", "D", "E")
    assert set(dataset.signature.inputs) == {"text"}
    assert any(
        note.startswith("879 of 1,773 problems have an image, but no folder train, val") for note in report.notes
    )
    assert "pid_splits.json names 19,435 problems that are not in problems.json." in report.notes


@pytest.mark.parametrize("images", ["images", "."])
def test_the_folder_works_as_it_is_with_its_images_in_either_place(small, tmp_path, images):
    dataset, report = look(small.folder(tmp_path / "sqa", images=images))
    counts = {name: split.rows for name, split in report.splits.items()}
    assert (counts["train"] + counts["steer"], counts["select"], counts["test"]) == (70, 15, 20)
    rows = dataset.rows("select")
    for identity, text, there in zip(
        dataset.ids(rows), dataset.texts(rows), dataset.batch(rows).present["image"], strict=True
    ):
        own = small.problems[identity]
        choices = " ".join(f"({letter}) {c}" for letter, c in zip("ABCD", own["choices"], strict=False))
        parts = [own["question"], choices, own["hint"]]
        assert text == " [SEP] ".join(part for part in parts if part)
        assert bool(there) == bool(own["image"])


def test_the_hub_s_parquet_gives_the_same_rows(small, tmp_path):
    ours = read(DataSpec(source=str(small.folder(tmp_path / "sqa")))).frame
    hub = read(DataSpec(source=str(small.parquet(tmp_path / "hub")))).frame
    for column in ("text", "label", "allowed", "slices"):
        assert ours[column].tolist() == hub[column].tolist()
    assert Counter(hub["split"]) == {"train": 70, "validation": 15, "test": 20}
    dataset, _ = look(tmp_path / "hub")
    there = dataset.batch(dataset.rows("select")).present["image"].tolist()
    assert there == [bool(small.problems[pid]["image"]) for pid in small.splits["val"]]


@pytest.mark.parametrize("write", [Small.folder, Small.parquet])
def test_lecture_and_solution_never_reach_the_model(small, tmp_path, write: Callable[[Small, Path], Path]):
    before, _ = look(write(small, tmp_path / "sqa"))
    for each in small.problems.values():
        each["lecture"], each["solution"] = "The answer is B.", f"It is {each['answer']}, of course."
    after, _ = prepare(DataSpec(source=str(write(small, tmp_path / "told" / "sqa"))), seed=0, cache=tmp_path / "other")
    assert (after.fingerprint, after.content_key) == (before.fingerprint, before.content_key)
    names = sorted(path.name for path in before.folder.iterdir() if path.suffix == ".npy")
    assert names == sorted(path.name for path in after.folder.iterdir() if path.suffix == ".npy")
    for name in names:
        assert (before.folder / name).read_bytes() == (after.folder / name).read_bytes(), name
    assert (before.folder / "tokenizer.json").read_bytes() == (after.folder / "tokenizer.json").read_bytes()
    assert read(DataSpec(source=str(tmp_path / "sqa"))).stamp == read(DataSpec(source=str(tmp_path / "told/sqa"))).stamp
    assert after.signature == before.signature


@pytest.mark.parametrize("column", ["lecture", "solution"])
def test_what_discusses_the_answer_cannot_be_named_as_an_input(small, tmp_path, column):
    with pytest.raises(DataError, match=f"{column} is the label in disguise in ScienceQA, so that it cannot be"):
        look(small.folder(tmp_path / "sqa"), columns={"text": ("question", column)})


def test_captions_join_the_text_where_they_are_wanted(small, tmp_path):
    spec = DataSpec.from_dict(
        {"source": str(small.folder(tmp_path / "sqa")), "columns": {"text": ("question", "caption", "choices")}}
    )
    frame = read(spec).frame.set_index("id")
    assert frame.loc["1", "text"].startswith("Which number is 1? [SEP] a picture of one [SEP] (A) choice 1.0")


def test_a_missing_part_is_named_in_one_line(small, tmp_path):
    folder = small.folder(tmp_path / "sqa")
    (folder / "pid_splits.json").unlink()
    with pytest.raises(DataError, match=r"holds ScienceQA's problems.json, but lacks pid_splits.json, which must lie"):
        look(folder)
    (folder / "pid_splits.json").write_text("{}")
    with pytest.raises(DataError, match=r"pid_splits.json names no problem of problems.json under train, val or test"):
        look(folder)


def test_problems_that_cannot_be_used_are_set_aside_with_the_reason(small, tmp_path):
    small.problems["3"]["answer"] = 7
    small.problems["4"]["choices"] = ["only one"]
    small.problems["999"] = problem(999)
    _, report = look(small.folder(tmp_path / "sqa"))
    assert report.quarantined["not a usable problem"] == 3
    details = [json.loads(line)["detail"] for line in Path(report.quarantine_file).read_text().splitlines()]
    assert "problem 3: answer must be a number from 0 to 1, but got 7" in details
    assert "problem 4: choices must be a list of 2 to 10, but got ['only one']" in details
    assert "problem 999: pid_splits.json has it in none of train, val and test" in details


def test_answers_that_a_question_does_not_have_are_impossible(small, tmp_path):
    dataset, _ = look(small.folder(tmp_path / "sqa"))
    rows = dataset.rows("select")
    logits = dataset.restricted(np.tile(np.arange(4.0), (len(rows), 1)), rows)
    choices = [len(small.problems[identity]["choices"]) for identity in dataset.ids(rows)]
    assert logits.argmax(1).tolist() == [count - 1 for count in choices]
    assert np.isfinite(logits).all()


def test_slices_say_which_rows_have_which_value(small, tmp_path):
    dataset, _ = look(small.folder(tmp_path / "sqa"))
    assert {name: list(values) for name, values in dataset.slices.items()} == {
        "subject": ["LAN", "NAT", "SOC"],
        "context": ["IMG", "NO", "TXT"],
        "grades": ["G1-6", "G7-12"],
    }
    everything = np.arange(sum(COUNTS.values()))
    for name, has in zip(dataset.ids(everything), dataset.slices["context"]["NO"], strict=True):
        assert has == (not small.problems[name]["hint"] and not small.problems[name]["image"])


def test_other_slices_can_be_named_and_unknown_ones_are_refused(small, tmp_path):
    folder = small.folder(tmp_path / "sqa")
    dataset, _ = look(folder, slices=("topic",))
    assert list(dataset.slices) == ["topic"]
    with pytest.raises(DataError, match=r"data.slices names 'topics', but the table has no such column. .*'topic'"):
        look(folder, slices=("topics",))
    with pytest.raises(DataError, match=r"column id must have at most 50 different values, but has 105"):
        look(folder, slices=("id",))
