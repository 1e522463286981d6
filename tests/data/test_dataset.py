import json
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasma.core.errors import CorruptFileError, DataError, SealedTestError
from chiasma.core.opening import TestOpening
from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.data.signature import ImageInput


def opening(fingerprint):
    return TestOpening(fingerprint=fingerprint, run="run", verb="evaluate", before=0)


def test_the_test_split_is_sealed(memes):
    dataset, _ = memes.prepare()
    with pytest.raises(SealedTestError, match="only test_rows"):
        dataset.rows("test")


def test_an_unknown_split_is_refused(memes):
    dataset, _ = memes.prepare()
    with pytest.raises(ValueError, match="must be one of train, steer, select, but is 'dev'"):
        dataset.rows("dev")


def test_no_label_of_the_test_split_can_be_read_before_an_opening(memes):
    dataset, _ = memes.prepare()
    visible = sum(len(dataset.rows(split)) for split in ("train", "steer", "select"))
    for row in range(visible, 60):
        with pytest.raises(SealedTestError, match="are sealed"):
            dataset.labels([0, row])
    with pytest.raises(IndexError):
        dataset.labels([-1])


def test_the_labels_of_the_test_split_lie_in_a_file_that_nothing_else_reads(memes):
    dataset, _ = memes.prepare()
    (dataset.folder / "test_labels.npy").write_bytes(b"x" * (dataset.folder / "test_labels.npy").stat().st_size)
    again = Dataset.open(dataset.folder)
    again.batch(again.rows("train"))
    again.labels(again.rows("select"))
    with pytest.raises(CorruptFileError, match="is not the file that was written"):
        again.test_rows(opening(again.fingerprint))


def test_an_opening_gives_the_test_rows_and_their_labels(memes):
    dataset, report = memes.prepare()
    rows = dataset.test_rows(opening(dataset.fingerprint))
    assert len(rows) == dataset.test_count == report.splits["test"].rows > 0
    assert dataset.labels(rows).tolist() == [int(identity) % 2 for identity in dataset.ids(rows)]


def test_the_opening_of_another_dataset_is_refused(memes):
    dataset, _ = memes.prepare()
    with pytest.raises(SealedTestError, match="This opening is for test split other"):
        dataset.test_rows(opening("other"))


def test_the_fingerprint_stays_when_only_the_settings_change(memes):
    first, _ = memes.prepare()
    second, _ = memes.prepare(image_size=16, vocabulary=100)
    assert first.fingerprint == second.fingerprint
    assert first.key != second.key


def test_the_fingerprint_changes_with_a_test_label(memes):
    for number, row in enumerate(memes.rows):
        row["split"] = "train" if number < 40 else "val" if number < 50 else "test"
    first, _ = memes.prepare()
    memes.rows[59]["label"] = "no"
    second, _ = memes.prepare()
    memes.rows[0]["label"] = "yes"
    third, _ = memes.prepare()
    assert first.fingerprint != second.fingerprint == third.fingerprint


def test_a_batch_holds_what_the_rows_say(memes):
    dataset, _ = memes.prepare()
    rows = dataset.rows("train")[[4, 0, 4]]
    batch = dataset.batch(rows)
    assert batch.ids == tuple(dataset.ids(rows))
    assert batch.inputs["image"].shape == (3, 3, 40, 40)
    assert batch.inputs["image"].dtype == torch.float32
    assert batch.inputs["text"].dtype == torch.int64
    pixels = torch.from_numpy(dataset.images(rows)).permute(0, 3, 1, 2) / 255
    assert torch.equal(batch.inputs["image"], pixels)
    assert batch.present["image"].all()
    assert (batch.inputs["text"][:, 0] == 2).all()


def test_an_absent_modality_is_zeros_and_not_present(memes):
    for row in memes.rows[::3]:
        row["img"] = None
    for row in memes.rows[1::3]:
        row["text"] = ""
    dataset, report = memes.prepare()
    assert report.rows_kept == 60
    rows = dataset.rows("train")
    batch = dataset.batch(rows)
    kinds = np.array([int(identity) % 3 for identity in dataset.ids(rows)])
    assert batch.present["image"].tolist() == (kinds != 0).tolist()
    assert batch.present["text"].tolist() == (kinds != 1).tolist()
    assert not batch.inputs["image"][kinds == 0].any()
    assert not batch.inputs["text"][kinds == 1].any()
    assert not dataset.images(rows[kinds == 0]).any()


@pytest.mark.parametrize(("column", "left"), [("img", "text"), ("text", "image")])
def test_a_table_of_one_modality_has_one_input(memes, column, left):
    for row in memes.rows:
        del row[column]
    dataset, _ = memes.prepare()
    assert set(dataset.signature.inputs) == {left}
    assert set(dataset.batch(dataset.rows("train")).inputs) == {left}


def test_new_samples_are_encoded_exactly_as_the_rows_were(memes):
    from chiasma.data.batch import Sample

    dataset, _ = memes.prepare(image_size=24, text_length=6)
    rows = dataset.rows("select")
    samples = [
        Sample(identity, {"image": str(path), "text": text})
        for identity, path, text in zip(dataset.ids(rows), dataset.image_paths(rows), dataset.texts(rows), strict=True)
    ]
    ours, theirs = dataset.batch(rows), dataset.encode(samples)
    for name in ("image", "text"):
        assert torch.equal(ours.inputs[name], theirs.inputs[name])
        assert torch.equal(ours.present[name], theirs.present[name])
    assert ours.ids == theirs.ids


def test_quantities_are_standardised_by_the_train_split(memes):
    for number, row in enumerate(memes.rows):
        row["label"] = number * 10 + 0.5
    dataset, report = memes.prepare()
    assert "regression" in report.task
    labels = dataset.labels(dataset.rows("train"))
    assert labels.shape == (len(dataset.rows("train")), 1)
    assert labels.mean().item() == pytest.approx(0, abs=1e-5)
    assert labels.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    mean, deviation = dataset.target_scale
    first = dataset.ids(dataset.rows("train"))[0]
    assert labels[0].item() * deviation[0] + mean[0] == pytest.approx(int(first) * 10 + 0.5, abs=1e-2)
    assert dataset.class_counts is None


def test_label_sets_become_rows_of_zeros_and_ones(memes):
    for number, row in enumerate(memes.rows):
        row["label"] = ["even"] * (number % 2 == 0) + ["third"] * (number % 3 == 0)
    dataset, _ = memes.prepare()
    assert dataset.signature.target.task == "multilabel"
    rows = dataset.rows("train")
    expected = [[float(int(i) % 2 == 0), float(int(i) % 3 == 0)] for i in dataset.ids(rows)]
    assert dataset.labels(rows).tolist() == expected
    assert dataset.class_counts.tolist() == np.sum(expected, axis=0).astype(int).tolist()


def test_image_size_fits_the_images_up_to_64_pixels(memes):
    dataset, _ = memes.prepare()
    assert dataset.signature.inputs["image"] == ImageInput(channels=3, height=40, width=40)
    from PIL import Image

    Image.new("RGB", (300, 90), (1, 2, 3)).save(memes.folder / "img/00000.png")
    dataset, _ = memes.prepare()
    assert dataset.signature.inputs["image"].height == 64


def test_a_file_of_another_size_is_never_used(memes):
    dataset, _ = memes.prepare()
    with open(dataset.folder / "labels.npy", "ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptFileError, match=r"labels.npy must have \d+ bytes, but has \d+"):
        Dataset.open(dataset.folder)


def test_a_flipped_bit_is_found_where_files_are_verified(memes):
    dataset, _ = memes.prepare()
    rng = np.random.default_rng(0)
    names = sorted(json.loads((dataset.folder / "dataset.json").read_text())["files"])
    found = 0
    for _ in range(40):
        path = dataset.folder / names[int(rng.integers(len(names)))]
        original = path.read_bytes()
        if not original:
            continue
        spoilt = bytearray(original)
        spoilt[int(rng.integers(len(spoilt)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(spoilt))
        with pytest.raises(CorruptFileError):
            Dataset.open(dataset.folder, verify=True)
        path.write_bytes(original)
        found += 1
    assert found > 20
    Dataset.open(dataset.folder, verify=True)


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no prepared dataset"):
        Dataset.open(tmp_path)


def test_the_built_in_data_is_prepared_whole(tmp_path):
    dataset, report = prepare(DataSpec(), seed=0, cache=tmp_path)
    assert report.quarantined == {}
    assert report.rows_kept == 8_002
    assert dataset.class_counts.tolist() == [2480, 2480]
    assert dataset.signature.target.labels == ("false", "true")
    assert dataset.image_paths([0]) == [None]
    assert len(set(dataset.groups(dataset.rows("train")))) == 1114


def test_a_batch_needs_no_loop_over_rows(tmp_path):
    import time

    dataset, _ = prepare(DataSpec(rows=2000), seed=0, cache=tmp_path)
    rows = dataset.rows("train")[:512]

    def seconds(part):
        dataset.batch(part)
        best = []
        for _ in range(7):
            start = time.perf_counter()
            dataset.batch(part)
            best.append(time.perf_counter() - start)
        return min(best)

    assert seconds(rows) < 20 * seconds(rows[:16])


def test_sensitivity_travels_with_the_dataset(memes):
    assert memes.prepare(sensitive=True)[0].sensitive is True
    assert Path(memes.prepare()[0].folder).is_dir()
