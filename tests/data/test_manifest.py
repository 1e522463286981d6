import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.manifest import Columns, DataSpec, from_frame, read, resolve_roles

ROWS = [
    {"id": "007", "img": "a.png", "text": "hello, world", "label": "1"},
    {"id": "008", "img": "b.png", "text": 'she said "no"\nand left', "label": "0"},
]


def spec(path: Path, **settings) -> DataSpec:
    return DataSpec.from_dict({"source": str(path), **settings})


def write(path: Path, rows=ROWS) -> Path:
    frame = pd.DataFrame(rows)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif name.endswith(("csv", "tsv")):
        frame.to_csv(path, index=False, quoting=csv.QUOTE_ALL, sep="," if name.endswith("csv") else "\t")
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.tsv", "m.parquet", "m.jsonl.gz", "m.csv.gz", "m.ndjson"])
def test_every_kind_of_manifest_gives_the_same_rows(tmp_path, name):
    frame = read(spec(write(tmp_path / name))).frame
    assert frame["id"].tolist() == ["007", "008"]
    assert frame["text"].tolist() == [row["text"] for row in ROWS]
    assert [str(label) for label in frame["label"]] == ["1", "0"]
    assert frame["split"].tolist() == [None, None]


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=8))
def test_any_text_survives_csv_and_json_alike(tmp_path, cells):
    rows = [{"id": f"r{n}", "text": text, "label": label} for n, (text, label) in enumerate(cells)]
    tables = [read(spec(write(tmp_path / name, rows))).frame for name in ("m.csv", "m.jsonl")]
    for column in ("id", "text", "label"):
        assert tables[0][column].tolist() == tables[1][column].tolist()


def test_a_missing_manifest_names_the_tables_beside_it(tmp_path):
    write(tmp_path / "data.jsonl")
    with pytest.raises(DataError, match=r"dta.jsonl does not exist. Tables beside it: data.jsonl."):
        read(spec(tmp_path / "dta.jsonl"))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"does not exist. Nor does the folder .*nowhere"):
        read(spec(tmp_path / "nowhere" / "data.jsonl"))


def test_a_folder_of_another_layout_is_refused(tmp_path):
    write(tmp_path / "data.jsonl")
    with pytest.raises(
        DataError, match=r"in no layout that is known.*name the manifest file itself. Tables.*data.jsonl"
    ):
        read(spec(tmp_path))


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.tsv"])
def test_an_empty_manifest_is_refused(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="is empty: it has no rows"):
        read(spec(tmp_path / name))


def test_a_damaged_archive_is_one_line(tmp_path):
    path = write(tmp_path / "m.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"m.jsonl.gz is damaged"):
        read(spec(path))


def test_a_damaged_parquet_file_is_one_line(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        read(spec(tmp_path / "m.parquet"))


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "m.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"must end in one of .jsonl, .ndjson, .csv, .tsv, .parquet"):
        read(spec(tmp_path / "m.xlsx"))


def test_a_misspelt_built_in_name_gets_a_suggestion():
    with pytest.raises(DataError, match=r"'digit_claim' is neither .* Did you mean 'digit_claims'\?"):
        read(DataSpec(source="digit_claim"))


def test_a_malformed_line_is_set_aside_with_its_number(tmp_path):
    path = write(tmp_path / "m.jsonl")
    path.write_text(path.read_text() + '{"id": "9", "text": \n[1, 2]\n')
    table = read(spec(path))
    assert len(table.frame) == 2
    assert [(entry["line"], entry["reason"]) for entry in table.findings.quarantined] == [
        (3, "not valid JSON"),
        (4, "not a JSON object"),
    ]


def test_a_csv_row_with_a_cell_too_many_is_set_aside(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,text,label\n1,good,yes\n2,bad,no,extra\n3,fine,no\n")
    table = read(spec(path))
    assert table.frame["id"].tolist() == ["1", "3"]
    assert table.findings.quarantined[0]["detail"] == "line 3 has 4 cells, but the header has 3"


def test_a_label_column_of_another_name_is_suggested_and_never_guessed():
    with pytest.raises(DataError) as caught:
        from_frame(pd.DataFrame({"text": ["a"], "sentiment": ["b"]}), DataSpec())
    assert str(caught.value) == (
        "The table has no column named label; name it with data.columns.label. Perhaps data.columns.label=sentiment? "
        "Its columns: text, sentiment."
    )


def test_a_table_with_neither_image_nor_text_lists_its_columns():
    with pytest.raises(DataError, match=r"no column named img, image or text.*Perhaps data.columns.text=question\?"):
        resolve_roles(["question", "label"], Columns())


def test_a_mapped_column_that_does_not_exist_gets_a_suggestion():
    with pytest.raises(DataError, match=r"data.columns.text is 'captoin'.*Did you mean 'caption'\?"):
        resolve_roles(["caption", "label"], Columns(text=("captoin",)))


def test_two_columns_that_could_be_the_image_must_be_told_apart():
    with pytest.raises(DataError, match=r"Both img and image could be the image; say which: data.columns.image=img."):
        resolve_roles(["img", "image", "label"], Columns())


def test_several_text_columns_are_joined_by_the_separator():
    frame = pd.DataFrame({"q": ["why", "who"], "c": ["because", None], "label": ["a", "b"]})
    table = from_frame(frame, DataSpec(columns=Columns(text=("q", "c"))))
    assert table.frame["text"].tolist() == ["why [SEP] because", "who"]


def test_columns_without_a_role_are_named():
    table = from_frame(pd.DataFrame({"text": ["a"], "label": ["b"], "rating": [3]}), DataSpec())
    assert table.findings.notes == ["Columns that are not used: rating."]


def test_pixels_in_a_frame_are_kept_in_memory():
    frame = pd.DataFrame({"image": [np.zeros((4, 4, 3), np.uint8), None], "label": ["a", "b"]})
    table = from_frame(frame, DataSpec())
    assert table.frame["image"].tolist() == ["array-0000001", None]
    assert table.arrays["array-0000001"].shape == (4, 4, 3)


def test_two_frames_with_different_pixels_have_different_stamps():
    stamps = {
        from_frame(pd.DataFrame({"image": [np.full((40, 40, 3), v, np.uint8)], "label": ["a"]}), DataSpec()).stamp
        for v in (0, 1)
    }
    assert len(stamps) == 2


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ConfigError, match=r"must be below 1, but they sum to 1\.08"):
        DataSpec.from_dict({"test_fraction": 0.88})


def test_an_image_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DataError, match=r"image folder .*gone does not exist \(data.image_dir\)"):
        read(spec(write(tmp_path / "m.jsonl"), image_dir=str(tmp_path / "gone")))
