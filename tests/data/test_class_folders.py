"""Images in a folder for each class, written here."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import DataError
from chiasma.data.layouts import layout_of
from chiasma.data.manifest import DataSpec, read, source_stamp
from chiasma.data.prepare import prepare

WNIDS = ("n01440764", "n02012849", "n03126707")


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Write three of ImageNet's classes, two of which are called crane."""
    folder = tmp_path / "ILSVRC"
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 5)):
        for wnid in WNIDS:
            (folder / split / wnid).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
                image.save(folder / split / wnid / f"{wnid}_{number}.JPEG")
    return folder


def test_imagenet_s_folders_work_as_they_are_with_val_sealed(imagenet):
    dataset, report = prepare(DataSpec(source=str(imagenet)), seed=0, cache=imagenet.parent / "cache")
    assert report.splits["test"].labels == dict.fromkeys(WNIDS, 5)
    assert report.splits["train"].rows + report.splits["steer"].rows + report.splits["select"].rows == 60
    assert "There is val and no test: val is the sealed test split, and select is cut from train." in report.notes
    for identity, path in zip(*(f(dataset.rows("select")) for f in (dataset.ids, dataset.image_paths)), strict=True):
        assert path == imagenet / f"{identity}.JPEG"


@pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "imagenet_class_index.json", "classes.json"])
def test_classes_are_named_by_a_file(imagenet, name):
    words = dict(zip(WNIDS, ("tench, Tinca tinca", "crane", "crane"), strict=True))
    if name.endswith(".txt"):
        text = "".join(f"{own} {word}\n" for own, word in words.items())
    elif name == "classes.json":
        text = json.dumps({own: word.split(",")[0] for own, word in words.items()})
    else:
        text = json.dumps({str(n): [own, word.split(",")[0]] for n, (own, word) in enumerate(words.items())})
    before = source_stamp(DataSpec(source=str(imagenet)))
    (imagenet / name).write_text(text)
    frame = read(DataSpec(source=str(imagenet))).frame
    assert set(frame["label"]) == {"tench", "crane (n02012849)", "crane (n03126707)"}
    assert source_stamp(DataSpec(source=str(imagenet))) not in (before, None)


def test_a_file_of_names_that_cannot_be_used_is_one_line(imagenet):
    (imagenet / "classes.txt").write_text("n01440764\n")
    with pytest.raises(DataError, match=r"classes.txt does not name a class folder and its name in each entry"):
        read(DataSpec(source=str(imagenet)))


def test_folders_without_splits_are_cut(imagenet):
    dataset, report = prepare(DataSpec(source=str(imagenet / "train")), seed=0, cache=imagenet.parent / "cache")
    assert dataset.test_count == 12
    assert any(note.startswith("The source does not say which rows are for steer") for note in report.notes)


def test_unsorted_validation_images_are_one_line_and_unlabelled_test_images_are_left_out(imagenet):
    for name in ("test", "val"):
        for path in (imagenet / "val").glob("*/*"):
            (imagenet / name).mkdir(exist_ok=True)
            (imagenet / name / path.name).write_bytes(path.read_bytes())
    assert layout_of(imagenet).name == "class folders"
    assert set(read(DataSpec(source=str(imagenet))).frame["split"]) == {"train", "select"}
    for wnid in WNIDS:
        for path in (imagenet / "val" / wnid).iterdir():
            path.unlink()
        (imagenet / "val" / wnid).rmdir()
    with pytest.raises(DataError, match=r"val holds images without a folder for each class, so that they have no"):
        read(DataSpec(source=str(imagenet)))


def test_a_folder_with_a_table_is_not_taken_for_class_folders(imagenet):
    (imagenet / "manifest.jsonl").write_text("{}")
    assert layout_of(imagenet) is None
