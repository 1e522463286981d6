"""The reader on small sets in IMDB's own layouts, written here."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest

from chiasma.core.errors import DataError
from chiasma.data.dataset import Dataset
from chiasma.data.imdb import COLUMNS
from chiasma.data.manifest import DataSpec, read, source_stamp
from chiasma.data.prepare import prepare
from chiasma.data.report import DataReport

TRAIN, TEST = 40, 10


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Write the official folders, with ``TRAIN`` and ``TEST`` reviews of each label."""
    folder = tmp_path / "aclImdb"
    for split, count in (("train", TRAIN), ("test", TEST)):
        for label, rating in (("neg", 2), ("pos", 9)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                text = f"A {label} film<br /><br />numbered {number} of {split}."
                (folder / split / label / f"{number}_{rating}.txt").write_text(text)
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "unsup" / "0_0.txt").write_text("no label")
    (folder / "README").write_text("about")
    return folder


def table_rows() -> list[dict[str, str]]:
    rows = []
    for split, count in (("train", TRAIN), ("val", TEST), ("test", TEST)):
        for label, rating in (("0", "2"), ("1", "9")):
            for number in range(count):
                text = f"A film of {label},<br />numbered {number} of {split}."
                cells = (split, str(number), rating, label, text, str(len(rows)))
                rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = buffer.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def look(source: Path, **settings) -> tuple[Dataset, DataReport]:
    spec = DataSpec.from_dict({"source": str(source), **settings})
    return prepare(spec, seed=0, cache=source.parent / "cache")


def test_the_official_folders_work_as_they_are(reviews):
    dataset, report = look(reviews)
    counts = {name: split.rows for name, split in report.splits.items()}
    assert counts["train"] + counts["steer"] + counts["select"] == 2 * TRAIN
    assert report.splits["test"].labels == {"negative": TEST, "positive": TEST}
    assert dataset.signature.target.labels == ("negative", "positive")
    rows = dataset.rows("train")
    for identity, text, label in zip(dataset.ids(rows), dataset.texts(rows), dataset.labels(rows), strict=True):
        split, sentiment, name = identity.split("/")
        assert text == f"A {sentiment} film numbered {name.split('_')[0]} of {split}."
        assert ("neg", "pos")[int(label)] == sentiment


def test_reviews_are_read_in_the_order_of_their_numbers(reviews):
    frame = read(DataSpec(source=str(reviews))).frame
    assert frame["id"].tolist()[:3] == ["train/neg/0_2", "train/neg/1_2", "train/neg/2_2"]


def test_reviews_without_a_label_are_left_out_with_a_note(reviews):
    _, report = look(reviews)
    assert "train/unsup has no labels, so its 1 reviews are left out." in report.notes
    assert report.rows_read == 2 * (TRAIN + TEST)


def test_a_file_of_another_name_is_set_aside(reviews):
    (reviews / "train" / "pos" / "notes.txt").write_text("what is this")
    _, report = look(reviews)
    assert report.quarantined == {"file name is not ID_RATING.txt": 1}
    detail = json.loads(Path(report.quarantine_file).read_text())["detail"]
    assert detail == "train/pos/notes.txt is not named like 0_9.txt"


def test_a_review_that_is_not_unicode_is_set_aside(reviews):
    (reviews / "train" / "pos" / "3_9.txt").write_bytes(b"caf\xe9")
    _, report = look(reviews)
    assert report.quarantined == {"text is not valid Unicode": 1}


@pytest.mark.parametrize("name", ["imdb50k.csv", "imdb50k.csv.gz"])
def test_the_table_works_as_it_is_and_so_does_its_folder(tmp_path, name):
    path = write_table(tmp_path / "imdb" / name, table_rows())
    (path.parent / "README.md").write_text("about")
    for source in (path, path.parent):
        dataset, report = look(source)
        assert report.quarantined == {}
        assert report.splits["train"].rows + report.splits["steer"].rows == 2 * TRAIN
        assert report.splits["select"].rows == report.splits["test"].rows == 2 * TEST
        assert dataset.signature.target.labels == ("negative", "positive")
        rows = dataset.rows("select")
        assert set(dataset.texts(rows)[:1]) == {"A film of 0, numbered 0 of val."}
        assert dataset.ids(rows)[0] == "val/neg/0_2"


def test_the_rating_is_no_input_and_the_report_says_so(tmp_path, reviews):
    for source in (write_table(tmp_path / "imdb.csv", table_rows()), reviews):
        _, report = look(source)
        assert any(note.startswith("The rating (1 to 4 is negative, 7 to 10 positive) is") for note in report.notes)
        assert "Columns that are not used: rating." in report.notes
        with pytest.raises(DataError, match=r"rating is the label in disguise in IMDB \(\w+\), so that it cannot be"):
            look(source, columns={"text": ("text", "rating")})


def test_duplicates_by_the_table_s_own_groups_never_straddle_splits(tmp_path):
    rows = table_rows()
    rows[0]["dup_group"] = rows[-1]["dup_group"] = "twins"
    rows[1]["dup_group"] = rows[2]["dup_group"] = "brothers"
    dataset, report = look(write_table(tmp_path / "imdb.csv", rows))
    assert report.quarantined == {"group also in another split": 1}
    group = dict(zip(dataset.ids(np.arange(98)), dataset.groups(np.arange(98)), strict=True))
    assert group["train/neg/1_2"] == group["train/neg/2_2"]


def test_a_column_that_the_user_names_is_obeyed(tmp_path):
    rows = table_rows()
    for place, row in enumerate(rows):
        row["rating"] = str(1 + place % 10)
    dataset, _ = look(write_table(tmp_path / "imdb.csv", rows), columns={"label": "rating"}, task="regression")
    assert dataset.signature.target.labels == ("rating",)


def test_rows_without_a_known_label_are_set_aside_or_left_out(tmp_path):
    rows = table_rows()
    rows[0]["label"] = "2"
    rows[1]["split"], rows[1]["label"] = "unsup", ""
    _, report = look(write_table(tmp_path / "imdb.csv", rows))
    assert report.quarantined == {"label is neither 0 nor 1": 1}
    assert "1 rows of unsup have no label and are left out." in report.notes


def test_texts_that_are_cut_are_counted_in_the_report(tmp_path):
    rows = table_rows()
    for row in rows[:5]:
        row["text"] += " long" * 200
    _, report = look(write_table(tmp_path / "imdb.csv", rows))
    assert "texts cut to 128 token ids: 5" in report.lines()


def test_html_line_breaks_are_counted_and_become_one_space(reviews):
    (reviews / "train" / "pos" / "3_9.txt").write_text("one <br/> <BR /><br>two")
    (reviews / "train" / "pos" / "4_9.txt").write_text("no break")
    table = read(DataSpec(source=str(reviews)))
    assert table.frame.set_index("id")["text"]["train/pos/3_9"] == "one two"
    assert "HTML line breaks became spaces in 99 texts." in table.findings.notes


def test_the_stamp_is_known_without_reading_and_a_changed_review_is_noticed(reviews, tmp_path):
    for source in (reviews, write_table(tmp_path / "imdb" / "imdb.csv.gz", table_rows()).parent):
        spec = DataSpec(source=str(source))
        assert source_stamp(spec) == read(spec).stamp
    before, _ = look(reviews)
    (reviews / "train" / "pos" / "3_9.txt").write_text("A pos film<br /><br />numbered X of train.")
    assert look(reviews)[0].key != before.key


def test_a_table_of_other_columns_is_read_as_any_other(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("id,text,label,rating\n" + "".join(f"{n},film {n},{n % 2},{n}\n" for n in range(60)))
    dataset, report = look(path)
    assert dataset.signature.target.labels == ("0", "1")
    assert not any("disguise" in note for note in report.notes)


def test_a_folder_with_a_second_table_is_not_taken_for_imdb(tmp_path):
    write_table(tmp_path / "imdb" / "imdb.csv", table_rows())
    write_table(tmp_path / "imdb" / "other.csv", table_rows())
    with pytest.raises(DataError, match=r"is a folder in no layout that is known here .* imdb.csv, other.csv"):
        look(tmp_path / "imdb")
