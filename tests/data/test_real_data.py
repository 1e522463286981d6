import numpy as np
import pytest
import torch

from chiasma.data.cifar import CLASSES
from chiasma.data.manifest import DataSpec, read
from chiasma.data.prepare import prepare
from chiasma.data.signature import TokensInput


@pytest.mark.slow
def test_easy_vqa_is_prepared_as_it_is(third_party, tmp_path):
    spec = DataSpec(source=str(third_party("easy_vqa") / "manifest.jsonl"))
    dataset, report = prepare(spec, seed=0, cache=tmp_path)
    assert report.quarantined == {}
    counts = {name: split.rows for name, split in report.splits.items()}
    assert counts["train"] + counts["steer"] == 34_683
    assert (counts["select"], counts["test"]) == (3_892, 9_673)
    assert len(dataset.signature.target.labels) == 13
    train, steer = (set(dataset.groups(dataset.rows(split))) for split in ("train", "steer"))
    assert not train & steer


@pytest.mark.slow
def test_daquar_takes_the_photographs_tokens(third_party, tmp_path):
    folder = third_party("daquar")
    spec = DataSpec(source=str(folder / "manifest.jsonl"), features={"image": str(folder / "mobilenet_v2_tokens.npz")})
    dataset, report = prepare(spec, seed=0, cache=tmp_path)
    assert dataset.signature.inputs["image"] == TokensInput(count=10, dim=1280)
    assert dataset.test_count == 4_151
    rows = dataset.rows("select")
    batch = dataset.batch(rows)
    assert batch.present["image"].all()
    with np.load(folder / "mobilenet_v2_tokens.npz") as archive:
        names = {name: number for number, name in enumerate(archive["id"].tolist())}
        tokens = archive["tokens"]
    expected = tokens[[names[path.stem] for path in dataset.image_paths(rows)]]
    assert torch.equal(batch.inputs["image"].x, torch.from_numpy(expected).float())
    assert set(report.quarantined) == {"conflicting labels"}


@pytest.mark.slow
def test_imdb_is_text_alone_and_its_duplicates_do_not_leak(third_party, tmp_path):
    spec = DataSpec(source=str(third_party("imdb")), rows=6000)
    dataset, report = prepare(spec, seed=0, cache=tmp_path)
    assert set(dataset.signature.inputs) == {"text"}
    assert dataset.signature.target.labels == ("negative", "positive")
    everything = np.arange(report.rows_kept)
    groups = [set(dataset.groups(dataset.rows(split))) for split in ("train", "steer", "select")]
    groups.append(set(dataset.groups(everything[-dataset.test_count :])))
    assert sum(len(part) for part in groups) == len(set.union(*groups))
    assert "Columns that are not used: rating." in report.notes
    assert any(name.startswith("texts cut to ") for name in report.counts)


@pytest.mark.slow
def test_all_of_imdb_has_its_balanced_splits_and_known_duplicates(third_party):
    frame = read(DataSpec(source=str(third_party("imdb")))).frame
    counts = frame.groupby(["split", "label"]).size().to_dict()
    assert counts == {
        (split, label): rows
        for split, rows in (("train", 10_000), ("val", 2_500), ("test", 12_500))
        for label in ("negative", "positive")
    }
    assert frame["id"].is_unique
    assert frame["group"].duplicated().sum() == 418
    assert not frame["text"].str.contains("<br", regex=False).any()


@pytest.mark.slow
def test_cifar_10_is_read_as_it_is(third_party, tmp_path):
    spec = DataSpec(source=str(third_party("cifar10")), rows=3000)
    table = read(spec)
    assert table.frame.groupby("split").size().to_dict() == {"test": 10_000, "train": 50_000}
    assert set(table.frame.groupby(["split", "label"]).size()) == {1_000, 5_000}
    dataset, report = prepare(spec, seed=0, cache=tmp_path, table=table)
    assert report.quarantined == {}
    assert dataset.signature.target.labels == CLASSES
    assert dataset.images(dataset.rows("train")[:4]).shape == (4, 32, 32, 3)
