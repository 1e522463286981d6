"""Datasets of the Hugging Face hub, made by its own library on this machine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.layouts import layout_of
from chiasma.data.manifest import DataSpec, read, source_stamp
from chiasma.data.prepare import prepare

datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
datasets.disable_progress_bars()

COUNTS = {"train": 40, "validation": 10, "test": 10}
COLUMNS = {"image": "photo", "text": ("caption",), "label": "mood"}
Write = Callable[[object, Path], str]


def to_disk(found, folder: Path) -> str:
    found.save_to_disk(folder)
    return str(folder)


def to_parquet(found, folder: Path) -> str:
    (folder / "data").mkdir(parents=True)
    for split, part in found.items():
        half = len(part) // 2
        for place, rows in enumerate((range(half), range(half, len(part)))):
            part.select(rows).to_parquet(folder / "data" / f"{split}-{place:05d}-of-00002-0a1b2c3d.parquet")
    return str(folder)


def by_name(found, folder: Path) -> str:
    return f"hf:{to_parquet(found, folder)}"


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "caption": datasets.Value("string"),
            "mood": datasets.ClassLabel(names=["sad", "happy"]),
        }
    )
    parts = {}
    for split, count in COUNTS.items():
        pixels = rng.integers(0, 256, (count, 20, 20, 3), np.uint8)
        rows = {
            "photo": [Image.fromarray(image) for image in pixels],
            "caption": [f"{split} number {n}" for n in range(count)],
            "mood": [n % 2 for n in range(count)],
        }
        parts[split] = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(parts)


@pytest.mark.parametrize("write", [to_disk, to_parquet, by_name])
def test_columns_get_their_roles_by_name_and_labels_are_words(made, tmp_path, monkeypatch, write: Write):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    source = write(made, tmp_path / "moods")
    spec = DataSpec.from_dict({"source": source, "columns": COLUMNS})
    dataset, report = prepare(spec, seed=0, cache=tmp_path / "cache")
    assert dataset.signature.target.labels == ("happy", "sad")
    assert report.quarantined == {}
    assert (report.splits["select"].rows, report.splits["test"].rows) == (10, 10)
    assert report.splits["test"].labels == {"happy": 5, "sad": 5}
    rows = dataset.rows("select")
    assert dataset.texts(rows) == [f"validation number {n}" for n in range(10)]
    expected = [np.asarray(made["validation"][n]["photo"]) for n in range(10)]
    assert np.array_equal(dataset.images(rows), np.stack(expected))
    assert source_stamp(spec) == read(spec).stamp


def test_a_single_saved_split_is_cut(made, tmp_path):
    source = to_disk(made["train"], tmp_path / "one")
    assert layout_of(Path(source)).name == "Hugging Face (saved)"
    frame = read(DataSpec.from_dict({"source": source, "columns": COLUMNS})).frame
    assert len(frame) == 40
    assert set(frame["split"]) == {None}


def test_names_of_classes_stand_in_the_dataset_s_card_too(made, tmp_path):
    plain = made.cast_column("mood", datasets.Value("int64"))
    source = to_parquet(plain, tmp_path / "card")
    feature = {"name": "mood", "dtype": {"class_label": {"names": {"0": "sad", "1": "happy"}}}}
    card = yaml.safe_dump({"dataset_info": {"features": [{"name": "caption", "dtype": "string"}, feature]}})
    (tmp_path / "card" / "README.md").write_text(f"---\n{card}---\n# Moods\n")
    frame = read(DataSpec.from_dict({"source": source, "columns": COLUMNS})).frame
    assert frame["label"].tolist()[:2] == ["sad", "happy"]


def test_columns_that_are_not_named_are_not_guessed(made, tmp_path):
    source = to_disk(made, tmp_path / "moods")
    with pytest.raises(DataError, match=r"has no column named img, image or text; name it with"):
        read(DataSpec(source=source))


def test_splits_of_other_names_are_left_out_with_a_note(made, tmp_path):
    found = datasets.DatasetDict({"train": made["train"], "extra": made["test"], "dev_seen": made["validation"]})
    table = read(DataSpec.from_dict({"source": to_disk(found, tmp_path / "odd"), "columns": COLUMNS}))
    assert set(table.frame["split"]) == {"train", "dev"}
    assert "The split extra is none that is known here; its 10 rows are left out." in table.findings.notes


def test_a_damaged_or_missing_part_is_one_line(made, tmp_path):
    source = Path(to_disk(made, tmp_path / "moods"))
    data = source / "test" / "data-00000-of-00001.arrow"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(DataError, match=r"arrow is not a readable Arrow file"):
        read(DataSpec.from_dict({"source": str(source), "columns": COLUMNS}))
    data.unlink()
    with pytest.raises(DataError, match=r"names the data file 'data-.*arrow', which is not in its folder"):
        read(DataSpec.from_dict({"source": str(source), "columns": COLUMNS}))
    (source / "test" / "state.json").unlink()
    with pytest.raises(DataError, match=r"moods is a saved dataset, but lacks test/state.json"):
        read(DataSpec.from_dict({"source": str(source), "columns": COLUMNS}))


def test_a_name_that_cannot_be_had_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"hf:.*nowhere cannot be had: .* Where there is a network: `hf download"):
        read(DataSpec(source=f"hf:{tmp_path / 'nowhere'}"))


def test_a_script_of_a_dataset_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="cannot be had"):
        read(DataSpec(source=f"hf:{tmp_path / 'evil'}"))
    assert not (tmp_path / "owned").exists()
