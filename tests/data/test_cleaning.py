"""Each kind of bad row: set aside with its reason, or one line that says what is wrong. Nothing else is lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasma.core.errors import DataError


def reasons(memes, report):
    return {identity: entry["reason"] for identity, entry in memes.set_aside(report).items()}


def test_clean_rows_are_all_kept(memes):
    dataset, report = memes.prepare()
    assert report.rows_read == report.rows_kept == 60
    assert report.quarantine_file is None
    assert dataset.signature.target.labels == ("no", "yes")


def test_a_truncated_image_is_set_aside_and_no_other_row_gets_its_place(memes):
    path = memes.folder / memes.rows[3]["img"]
    path.write_bytes(path.read_bytes()[:400])
    dataset, report = memes.prepare()
    assert reasons(memes, report) == {"00003": "unreadable image"}
    for split in ("train", "steer", "select"):
        rows = dataset.rows(split)
        for row, identity in zip(rows, dataset.ids(rows), strict=True):
            expected = np.asarray(Image.open(memes.folder / f"img/{identity}.png"))
            assert (dataset.images([row])[0] == expected).all()


def test_an_image_outside_the_folder_is_set_aside(memes):
    shutil.copy(memes.folder / "img/00000.png", memes.folder.parent / "stolen.png")
    memes.rows[0]["img"] = "../stolen.png"
    memes.rows[1]["img"] = "/etc/hostname"
    _, report = memes.prepare()
    assert set(reasons(memes, report).values()) == {"image path outside the image folder"}
    assert report.quarantined == {"image path outside the image folder": 2}


def test_a_missing_image_leaves_the_text_alone(memes):
    (memes.folder / "img/00004.png").unlink()
    dataset, report = memes.prepare()
    assert report.rows_kept == 60
    assert report.counts["rows whose image file is missing, kept with their text alone"] == 1
    rows = np.concatenate([dataset.rows(split) for split in ("train", "steer", "select")])
    absent = [i for i, identity in zip(rows, dataset.ids(rows), strict=True) if identity == "00004"]
    if absent:
        assert not dataset.batch(absent).present["image"].any()


def test_a_missing_image_is_set_aside_where_that_is_wished(memes):
    (memes.folder / "img/00004.png").unlink()
    _, report = memes.prepare(missing_images="quarantine")
    assert reasons(memes, report) == {"00004": "missing image"}


def test_too_many_missing_images_stop_the_preparation_and_name_the_folder(memes):
    shutil.rmtree(memes.folder / "img")
    with pytest.raises(DataError, match=r"60 of 60 rows \(100%\) cannot be used.*missing image.*data.image_dir"):
        memes.prepare()


def test_too_many_bad_rows_name_the_biggest_reason(memes):
    for row in memes.rows[:10]:
        row["text"] = "bad\0text"
    for row in memes.rows[10:14]:
        row["label"] = None
    with pytest.raises(DataError, match=r"14 of 60 rows \(23%\).*Most often: text holds NUL bytes \(10 rows\)"):
        memes.prepare()


def test_a_row_with_nul_bytes_in_its_text_is_set_aside(memes):
    memes.rows[5]["text"] = "nul\0byte"
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00005": "text holds NUL bytes"}


def test_text_that_is_not_unicode_is_set_aside(memes):
    memes.rows[5]["text"] = "half a pair \ud83d"
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00005": "text is not valid Unicode"}


def test_a_very_long_text_is_cut_and_counted(memes):
    memes.rows[5]["text"] = "word " * 100_000
    dataset, report = memes.prepare()
    assert report.counts["texts cut to 20,000 characters"] == 1
    assert report.rows_kept == 60
    assert dataset.signature.inputs["text"].length <= 128


def test_the_second_row_of_an_id_is_set_aside(memes):
    memes.rows[8]["id"] = "00007"
    _, report = memes.prepare()
    assert report.quarantined == {"duplicate id": 1}
    assert memes.set_aside(report)["00007"]["line"] == 9


def test_ids_that_mostly_repeat_do_not_name_rows(memes):
    for row in memes.rows:
        row["id"] = "same"
    dataset, report = memes.prepare()
    assert report.rows_kept == 60
    assert any("the id column names no rows" in note for note in report.notes)
    assert dataset.ids(dataset.rows("train"))[0].startswith("row-")


def test_an_image_of_a_single_pixel_is_kept_and_counted(memes):
    Image.new("RGB", (1, 1)).save(memes.folder / "img/00002.png")
    _, report = memes.prepare()
    assert report.rows_kept == 60
    assert report.counts["images with a side below 8 pixels"] == 1


def test_an_image_with_too_many_pixels_is_set_aside_by_its_header(memes):
    Image.new("1", (8000, 7000)).save(memes.folder / "img/00002.png")
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00002": "too many pixels"}
    assert "8000 x 7000" in memes.set_aside(report)["00002"]["detail"]


def test_an_animated_image_is_kept_and_counted(memes):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(memes.folder / "img/00002.gif", save_all=True, append_images=frames[1:])
    memes.rows[2]["img"] = "img/00002.gif"
    _, report = memes.prepare()
    assert report.counts["animated images, of which the first frame is used"] == 1


def test_a_row_with_neither_image_nor_text_is_set_aside(memes):
    memes.rows[2] |= {"img": "", "text": "   "}
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00002": "neither image nor text"}


def test_an_exact_copy_is_dropped(memes):
    memes.rows.append(memes.rows[3] | {"id": "copy"})
    _, report = memes.prepare()
    assert reasons(memes, report) == {"copy": "exact duplicate"}


def test_rows_that_say_the_same_with_different_labels_are_all_set_aside(memes):
    memes.rows.append(memes.rows[3] | {"id": "other", "label": "no"})
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00003": "conflicting labels", "other": "conflicting labels"}


def test_the_same_text_with_another_image_is_no_duplicate(memes):
    for row in memes.rows:
        row["text"] = "look at this"
    dataset, report = memes.prepare()
    assert report.rows_kept == 60
    assert len(set(dataset.groups(dataset.rows("train")))) == len(dataset.rows("train"))


def split_rows(memes):
    for number, row in enumerate(memes.rows):
        row["split"] = "train" if number < 40 else "val" if number < 50 else "test"


def test_the_train_copy_of_an_image_in_test_is_dropped(memes):
    split_rows(memes)
    memes.rows[0]["img"] = memes.rows[55]["img"]
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00000": "image also in another split"}


def test_a_leak_by_design_is_kept_and_counted_where_that_is_wished(memes):
    split_rows(memes)
    memes.rows[0]["img"] = memes.rows[55]["img"]
    _, report = memes.prepare(shared_images="keep")
    assert report.rows_kept == 60
    assert report.counts["rows that share their image with another split, kept"] == 1


def test_splits_that_share_most_images_are_refused_with_both_remedies(memes):
    split_rows(memes)
    for number, row in enumerate(memes.rows[:30]):
        row["img"] = memes.rows[40 + number % 20]["img"]
    with pytest.raises(DataError, match=r"30 of 40 train rows share.*data.shared_images=keep.*leave out the split"):
        memes.prepare()


def test_a_group_in_two_splits_loses_its_train_rows(memes):
    split_rows(memes)
    memes.rows[1]["group"] = memes.rows[58]["group"] = "twins"
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00001": "group also in another split"}


def test_a_copy_of_a_test_row_is_dropped_from_train(memes):
    split_rows(memes)
    memes.rows[0] |= {key: memes.rows[59][key] for key in ("img", "text", "label")}
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00000": "exact duplicate across splits"}


def test_the_source_s_own_test_split_keeps_its_repeats_and_counts_them(memes):
    split_rows(memes)
    memes.rows[58] |= {key: memes.rows[59][key] for key in ("img", "text")}
    dataset, report = memes.prepare()
    assert dataset.test_count == 10
    assert report.counts["rows in the source's select and test that repeat or contradict another, kept"] == 2


def test_steer_is_cut_from_the_source_s_train_rows_alone(memes):
    split_rows(memes)
    dataset, report = memes.prepare()
    assert report.splits["train"].rows + report.splits["steer"].rows == 40
    assert report.splits["select"].rows == 10
    assert all(int(identity) < 40 for identity in dataset.ids(dataset.rows("steer")))
    assert "steer 8%" in " ".join(report.notes)


def test_a_label_that_train_does_not_have_is_set_aside(memes):
    split_rows(memes)
    memes.rows[57]["label"] = "perhaps"
    _, report = memes.prepare()
    assert reasons(memes, report) == {"00057": "label not in the train split"}
    assert any("1 labels occur in one split only: 'perhaps' (test)" in note for note in report.notes)


def test_an_unknown_split_name_is_refused(memes):
    memes.rows[0]["split"] = "holdout"
    with pytest.raises(DataError, match=r"Column split must hold names among .*, but has 'holdout'"):
        memes.prepare()


def test_a_class_of_one_row_is_trained_on(memes):
    memes.rows[0]["label"] = "unique"
    dataset, _ = memes.prepare()
    assert dict(zip(dataset.signature.target.labels, dataset.class_counts, strict=True))["unique"] == 1


def test_one_class_only_is_refused(memes):
    for row in memes.rows:
        row["label"] = "yes"
    with pytest.raises(DataError, match=r"at least two different labels, but all 60 rows have 'yes'"):
        memes.prepare()


def test_too_few_rows_for_four_splits_are_refused(make_memes):
    with pytest.raises(DataError, match="are too few for four splits"):
        make_memes(3).prepare()


def test_a_picture_saved_again_in_another_size_joins_the_group(memes):
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (200, 200), Image.Resampling.BICUBIC
    )
    scene.save(memes.folder / "img/00000.png")
    scene.resize((120, 120)).save(memes.folder / "img/copy.jpg", quality=80)
    memes.rows[1]["img"] = "img/copy.jpg"
    dataset, report = memes.prepare()
    assert report.near_duplicate_images == 1
    assert report.near_duplicate_images_across_splits == 0
    everything = np.arange(60)
    group = dict(zip(dataset.ids(everything), dataset.groups(everything), strict=True))
    assert group["00000"] == group["00001"]
    assert len(set(group.values())) == 59


def test_the_quarantine_file_tells_line_reason_and_detail(memes):
    memes.rows[5]["label"] = None
    _, report = memes.prepare()
    line = Path(report.quarantine_file).read_text().splitlines()[0]
    assert json.loads(line) == {"id": "00005", "line": 6, "split": None, "reason": "label is missing", "detail": ""}


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.2])
def test_every_bad_row_among_many_is_decided_by_its_own_fault(make_memes, share):
    memes = make_memes(1000)
    rng = np.random.default_rng(3)
    chosen = rng.choice(1000, size=max(1, int(share * 1000)), replace=False)
    kinds = ["unreadable image", "text holds NUL bytes", "label is missing", "image path outside the image folder"]
    expected = {}
    for number in chosen:
        row, kind = memes.rows[number], kinds[int(rng.integers(4))]
        expected[row["id"]] = kind
        if kind == kinds[0]:
            (memes.folder / row["img"]).write_bytes(b"\x89PNG broken")
        elif kind == kinds[1]:
            row["text"] += "\0"
        elif kind == kinds[2]:
            row["label"] = None
        else:
            row["img"] = "../../x.png"
    dataset, report = memes.prepare()
    assert reasons(memes, report) == expected
    assert report.rows_kept == 1000 - len(expected)
    rows = dataset.rows("train")
    assert dataset.texts(rows) == [f"caption number {int(identity)}" for identity in dataset.ids(rows)]
    assert [int(label) for label in dataset.labels(rows)] == [int(identity) % 2 for identity in dataset.ids(rows)]
    assert dataset.ids(rows) == sorted(dataset.ids(rows))
