"""COCO's captions in their own layout, written here."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import DataError
from chiasma.data.coco import read_coco
from chiasma.data.layouts import layout_of
from chiasma.data.manifest import DataSpec, read


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count, first in (("train", 12, 100), ("val", 4, 900)):
        images = [
            {"id": first + n, "file_name": f"{first + n:012d}.jpg", "height": 20, "width": 30} for n in range(count)
        ]
        (folder / f"{split}2017").mkdir()
        for image in images:
            pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{split}2017" / image["file_name"])
        captions = [
            {"id": 10 * image["id"] + n, "image_id": image["id"], "caption": f" A photo of {image['id']}, {n}.\n"}
            for image in images
            for n in range(5)
        ]
        content = {"info": {}, "licenses": [], "images": images, "annotations": captions}
        (folder / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(content))
        (folder / "annotations" / f"instances_{split}2017.json").write_text("{}")
    return folder


def test_captions_are_rows_and_photographs_are_groups(coco):
    assert layout_of(coco).name == "COCO captions"
    records, notes = read_coco(coco)
    assert len(records.rows) == 80
    assert records.rows[0] == {
        "id": "train-1000",
        "img": "train2017/000000000100.jpg",
        "caption": "A photo of 100, 0.",
        "group": "100",
        "split": "train",
    }
    assert {row["split"] for row in records.rows} == {"train", "test"}
    assert all((coco / row["img"]).is_file() for row in records.rows)
    assert len(notes) == 1


def test_what_is_to_be_learned_must_be_said(coco):
    with pytest.raises(DataError, match=r"has no classes to tell: say data.task=contrastive or data.task=generation"):
        read(DataSpec(source=str(coco)))


def test_val_alone_is_cut_by_photograph(coco):
    (coco / "annotations" / "captions_train2017.json").unlink()
    records, notes = read_coco(coco)
    assert {row["split"] for row in records.rows} == {None}
    assert notes == []


def test_damaged_annotations_are_set_aside_and_missing_photographs_one_line(coco):
    path = coco / "annotations" / "captions_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["image_id"] = 77
    del content["annotations"][4]["caption"]
    path.write_text(json.dumps(content))
    records, _ = read_coco(coco)
    assert [bad.line for bad in records.bad] == [64, 65]
    assert "lacks 77" in records.bad[0].detail
    (coco / "val2017").rename(coco / "images")
    with pytest.raises(DataError, match=r"captions photographs of val2017, but .* has neither val2017 nor images/val"):
        read_coco(coco)
    path.write_text('{"images": []}')
    with pytest.raises(DataError, match="must hold the lists images and annotations, but has no annotations"):
        read_coco(coco)
