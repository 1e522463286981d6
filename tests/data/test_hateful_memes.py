"""The reader on a small set in the challenge's own layout, written here: its data may not be redistributed."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from chiasma.core.errors import DataError
from chiasma.data.manifest import DataSpec, read
from chiasma.data.prepare import prepare


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    folder = tmp_path / "hateful_memes"
    (folder / "img").mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = {"train": 85, "dev_seen": 10, "test_seen": 12, "test_unseen": 20}
    number = 1000
    rows = {}
    for name, count in sizes.items():
        rows[name] = []
        for _ in range(count):
            number += 17
            identity = f"{number:05d}"
            Image.fromarray(rng.integers(0, 256, (36, 48, 3), np.uint8)).save(folder / f"img/{identity}.png")
            text = f"look how many people love you {number % 5}"
            rows[name].append({"id": identity, "img": f"img/{identity}.png", "label": number % 2, "text": text})
    fresh = [row | {"id": f"0{row['id']}x", "img": f"img/{row['id']}.png"} for row in rows["train"][:2]]
    for row in fresh:
        Image.fromarray(rng.integers(0, 256, (36, 48, 3), np.uint8)).save(folder / f"img/{row['id']}.png")
        row["img"] = f"img/{row['id']}.png"
    rows["dev_unseen"] = rows["dev_seen"][:8] + fresh
    for name, entries in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in entries))
    return folder


def look(folder: Path, **settings):
    return prepare(DataSpec.from_dict({"source": str(folder), **settings}), seed=0, cache=folder.parent / "cache")


def test_the_folder_works_as_it_is(challenge):
    dataset, report = look(challenge)
    counts = {name: split.rows for name, split in report.splits.items()}
    assert counts["train"] + counts["steer"] == 85
    assert counts["select"] == 12
    assert counts["test"] == 32
    assert dataset.signature.target.labels == ("0", "1")


def test_ids_keep_their_leading_zeros(challenge):
    dataset, _ = look(challenge)
    assert "01017" in [*dataset.ids(dataset.rows("train")), *dataset.ids(dataset.rows("steer"))]


def test_ids_that_dev_unseen_repeats_are_one_row(challenge):
    dataset, report = look(challenge)
    assert "dev_unseen.jsonl repeats 8 ids of earlier files; each is one row." in report.notes
    assert len(set(dataset.ids(dataset.rows("select")))) == 12


def test_the_same_text_with_another_image_is_by_design(challenge):
    _, report = look(challenge)
    assert report.quarantined == {}


def test_missing_images_are_counted_and_their_texts_kept(challenge):
    for name in ("dev_seen", "test_unseen"):
        rows = [json.loads(line) for line in (challenge / f"{name}.jsonl").read_text().splitlines()]
        for row in rows[::5]:
            (challenge / row["img"]).unlink()
    dataset, report = look(challenge)
    assert report.counts["rows whose image file is missing, kept with their text alone"] == 6
    assert report.rows_kept == 129
    present = dataset.batch(dataset.rows("select")).present["image"]
    assert int((~present).sum()) == 2


def test_a_file_without_labels_is_left_out_with_a_note(challenge):
    rows = [json.loads(line) for line in (challenge / "test_unseen.jsonl").read_text().splitlines()]
    for row in rows:
        del row["label"]
    (challenge / "test_unseen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset, report = look(challenge)
    assert dataset.test_count == 12
    assert "test_unseen.jsonl has no labels, so its 20 rows are left out." in report.notes


def test_a_layout_without_any_label_is_refused(challenge):
    for path in challenge.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "label"}) + "\n" for row in rows))
    with pytest.raises(DataError, match="has the Hateful Memes layout, but no file in it has labels"):
        look(challenge)


def without_images(challenge: Path, count: int) -> list[str]:
    """Take images away from the first rows of train, and return their names."""
    rows = [json.loads(line) for line in (challenge / "train.jsonl").read_text().splitlines()][:count]
    (challenge.parent / "more").mkdir()
    for row in rows:
        (challenge / row["img"]).rename(challenge.parent / "more" / Path(row["img"]).name)
    return [row["img"] for row in rows]


def test_missing_images_are_found_in_a_second_folder(challenge):
    before, _ = look(challenge)
    names = without_images(challenge, 6)
    dataset, report = look(challenge, image_fallbacks=(str(challenge.parent / "more"),))
    assert report.counts == {"images found in more, because they were missing": 6}
    assert dataset.content_key == before.content_key
    rows = np.concatenate([dataset.rows("train"), dataset.rows("steer")])
    paths = dataset.image_paths(rows)
    assert all(path.is_file() for path in paths)
    assert {path.name for path in paths if path.parent.name == "more"} == {Path(name).name for name in names}


def test_missing_images_are_found_in_an_archive_and_a_changed_one_is_noticed(challenge):
    names = without_images(challenge, 6)
    for count in (4, 6):
        with zipfile.ZipFile(challenge.parent / "more.zip", "w") as archive:
            for name in names[:count]:
                archive.write(challenge.parent / "more" / Path(name).name, f"hateful_memes/{name}")
        _, report = look(challenge, image_fallbacks=(str(challenge.parent / "more.zip"),))
        assert report.counts["images found in more.zip, because they were missing"] == count
        missing = report.counts.get("rows whose image file is missing, kept with their text alone", 0)
        assert missing == 6 - count


def test_a_file_name_that_two_images_have_is_not_guessed(challenge):
    (name,) = without_images(challenge, 1)
    more = challenge.parent / "more"
    (more / "copy").mkdir()
    shutil.copy(more / Path(name).name, more / "copy")
    _, report = look(challenge, image_fallbacks=(str(more),))
    assert report.counts["rows whose image file is missing, kept with their text alone"] == 1


def test_a_fallback_that_is_not_there_is_one_line(challenge):
    without_images(challenge, 1)
    with pytest.raises(DataError, match=r"data.image_fallbacks: .*gone.zip must be a folder or an archive .* exist"):
        look(challenge, image_fallbacks=(str(challenge.parent / "gone.zip"),))


def test_the_hub_s_parquet_gives_the_same_rows(challenge):
    tables = {"train": ["train"], "validation": ["dev_seen", "dev_unseen"], "test": ["test_seen", "test_unseen"]}
    hub = challenge.parent / "hub"
    (hub / "data").mkdir(parents=True)
    for split, names in tables.items():
        lines = [line for name in names for line in (challenge / f"{name}.jsonl").read_text().splitlines()]
        rows = [json.loads(line) for line in lines]
        # As the library reads them: numbers, of which the leading zeros are gone.
        ids = [row["id"].strip("x").lstrip("0") for row in rows]
        columns = {"id": ids, **{key: [row[key] for row in rows] for key in ("img", "text", "label")}}
        parquet.write_table(pa.table(columns), hub / "data" / f"{split}-00000-of-00001.parquet")
    shutil.copytree(challenge / "img", hub / "img")
    frames = [read(DataSpec(source=str(folder))).frame for folder in (challenge, hub)]
    assert frames[0]["image"].tolist() == frames[1]["image"].tolist()
    zeros = [name for name in frames[1]["id"] if name.startswith("0")]
    assert zeros
    _, report = look(hub)
    assert "data/validation-00000-of-00001.parquet repeats 8 ids of its own; each is one row." in report.notes
    assert any("ids had lost their leading zeros" in note for note in report.notes)
    assert report.splits["select"].rows == 12
