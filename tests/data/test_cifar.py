"""The reader on small sets in CIFAR-10's own layouts, written here."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from chiasma.core.errors import DataError
from chiasma.data.cifar import CLASSES
from chiasma.data.dataset import Dataset
from chiasma.data.layouts import layout_of
from chiasma.data.manifest import DataSpec, read, source_stamp
from chiasma.data.prepare import prepare
from chiasma.data.report import DataReport
from tests.data.official_pickles import write_pickle

TRAIN, TEST = 100, 20


class Small:
    """``TRAIN`` and ``TEST`` images of noise, ten classes in turn, written in any of the layouts."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.pixels = rng.integers(0, 256, (TRAIN + TEST, 32, 32, 3), dtype=np.uint8)
        self.labels = [place % 10 for place in range(TRAIN + TEST)]

    def part(self, split: str) -> tuple[np.ndarray, list[int]]:
        chosen = slice(0, TRAIN) if split == "train" else slice(TRAIN, None)
        return self.pixels[chosen], self.labels[chosen]

    def parquet(self, folder: Path) -> Path:
        folder.mkdir()
        for split in ("train", "test"):
            images, labels = self.part(split)
            half = len(images) // 2
            parts = [(images, labels)]
            names = [f"{split}.parquet"]
            if split == "train":
                parts = [(images[:half], labels[:half]), (images[half:], labels[half:])]
                names = [f"train-0000{place}-of-00002.parquet" for place in (0, 1)]
            for name, (some, numbers) in zip(names, parts, strict=True):
                write_table(folder / name, [png(image) for image in some], numbers)
        (folder / "classes.json").write_text(json.dumps(CLASSES))
        return folder

    def pickles(self, folder: Path) -> Path:
        folder.mkdir()
        images, labels = self.part("train")
        size = TRAIN // 5
        for place in range(5):
            some = slice(place * size, (place + 1) * size)
            write_batch(folder / f"data_batch_{place + 1}", images[some], labels[some])
        write_batch(folder / "test_batch", *self.part("test"))
        write_pickle(folder / "batches.meta", {b"label_names": [name.encode() for name in CLASSES], b"num_vis": 3072})
        return folder

    def folders(self, folder: Path) -> Path:
        for split in ("train", "test"):
            for place, (image, label) in enumerate(zip(*self.part(split), strict=True)):
                path = folder / split / CLASSES[label] / f"{place}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(image))
        return folder


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_table(path: Path, images: list[bytes | None], labels: list[int | None]) -> None:
    cells = [None if image is None else {"bytes": image, "path": f"{n}.png"} for n, image in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet.write_table(pa.table({"img": pa.array(cells, kind), "label": pa.array(labels, pa.int64())}), path)


def write_batch(path: Path, images: np.ndarray, labels: list[int]) -> None:
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))
    names = [f"picture_{place}.png".encode() for place in range(len(images))]
    write_pickle(path, {b"batch_label": b"a batch", b"labels": labels, b"data": rows, b"filenames": names})


def look(source: Path, **settings) -> tuple[Dataset, DataReport]:
    spec = DataSpec.from_dict({"source": str(source), "max_bad_fraction": 0.5, **settings})
    return prepare(spec, seed=0, cache=source.parent / "cache")


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


LAYOUTS = ("parquet", "pickles", "folders")


@pytest.fixture
def write(small: Small, tmp_path: Path) -> Callable[[str], Path]:
    return lambda layout: getattr(small, layout)(tmp_path / layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_official_splits_and_class_names(write, layout):
    dataset, report = look(write(layout))
    assert report.quarantined == {}
    counts = {name: split.rows for name, split in report.splits.items()}
    assert counts["train"] + counts["steer"] + counts["select"] == TRAIN
    assert counts["test"] == TEST
    assert report.splits["test"].labels == dict.fromkeys(CLASSES, 2)
    assert dataset.signature.target.labels == CLASSES
    assert dataset.signature.inputs["image"].height == 32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_every_image_its_own_pixels_and_label(write, small, layout):
    dataset, _ = look(write(layout))
    known = {image.tobytes(): CLASSES[label] for image, label in zip(small.pixels, small.labels, strict=True)}
    rows = np.concatenate([dataset.rows(split) for split in ("train", "steer", "select")])
    labels = [CLASSES[int(label)] for label in dataset.labels(rows)]
    assert [known[image.tobytes()] for image in dataset.images(rows)] == labels


def test_rows_of_parquet_and_pickles_are_named_by_their_official_place(write):
    for layout in ("parquet", "pickles"):
        frame = read(DataSpec(source=str(write(layout)))).frame
        assert frame["id"].tolist() == [
            *(f"train-{place:05d}" for place in range(TRAIN)),
            *(f"test-{place:05d}" for place in range(TEST)),
        ]
        assert frame["label"].tolist()[:3] == ["airplane", "automobile", "bird"]


def test_images_of_class_folders_are_read_in_the_order_of_their_numbers(write):
    frame = read(DataSpec(source=str(write("folders")))).frame
    assert frame["id"].tolist()[:3] == ["train/airplane/0", "train/airplane/10", "train/airplane/20"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stamp_is_known_without_reading_and_the_second_look_only_opens(write, layout):
    source = write(layout)
    spec = DataSpec(source=str(source))
    assert source_stamp(spec) == read(spec).stamp
    first, _ = look(source)
    lines = []
    again, _ = prepare(
        DataSpec.from_dict({"source": str(source), "max_bad_fraction": 0.5}),
        seed=0,
        cache=source.parent / "cache",
        progress=lines.append,
    )
    assert (again.key, lines) == (first.key, [])


@pytest.mark.parametrize(
    ("layout", "file"),
    [("parquet", "train-00001-of-00002.parquet"), ("pickles", "data_batch_3"), ("folders", "train/cat/13.png")],
)
def test_a_changed_file_is_noticed(write, layout, file):
    source = write(layout)
    before, _ = look(source)
    images = np.full((20, 32, 32, 3), 7, np.uint8)
    images[:, 0, 0, 0] = range(20)
    if layout == "parquet":
        write_table(source / file, [png(image) for image in images], [place % 10 for place in range(20)])
    elif layout == "pickles":
        write_batch(source / file, images, [place % 10 for place in range(20)])
    else:
        (source / file).write_bytes(png(images[0]))
    after, _ = look(source)
    assert before.key != after.key


def test_a_damaged_image_in_parquet_is_set_aside_like_any_other(small, write, tmp_path):
    source = write("parquet")
    images, labels = small.part("test")
    cells: list[bytes | None] = [png(image) for image in images]
    cells[3], cells[5], cells[7] = cells[3][:300], b"no image", None
    write_table(source / "test.parquet", cells, labels)
    dataset, report = look(source)
    assert report.quarantined == {"unreadable image": 2, "neither image nor text": 1}
    entries = [json.loads(line) for line in Path(report.quarantine_file).read_text().splitlines()]
    assert [entry["id"] for entry in entries] == ["test-00003", "test-00005", "test-00007"]
    assert "not a readable image" in entries[1]["detail"]
    assert dataset.test_count == TEST - 3


def test_a_label_that_is_no_class_is_set_aside(small, write):
    source = write("parquet")
    images, labels = small.part("test")
    write_table(source / "test.parquet", [png(image) for image in images], [12, None, *labels[2:]])
    _, report = look(source)
    assert report.quarantined == {"label is not a class number": 1, "label is missing": 1}


def test_the_train_copy_of_a_test_image_is_dropped(small, tmp_path):
    small = Small()
    small.pixels[4] = small.pixels[TRAIN + 4]
    _, report = look(small.parquet(tmp_path / "parquet"))
    assert report.quarantined == {"exact duplicate across splits": 1}


def test_class_names_in_another_order_are_refused(write):
    source = write("parquet")
    (source / "classes.json").write_text(json.dumps(sorted(CLASSES, reverse=True)))
    with pytest.raises(DataError, match=r"classes.json must hold CIFAR-10's class names in order .*but holds truck, "):
        look(source)


def test_a_table_of_other_images_without_class_names_is_refused(write, tmp_path):
    source = write("parquet")
    (source / "classes.json").unlink()
    assert look(source)[1].rows_kept == TRAIN + TEST
    write_table(source / "train-00000-of-00002.parquet", [png(np.zeros((28, 28, 3), np.uint8))], [1])
    with pytest.raises(DataError, match=r"no classes.json .* must be 32 x 32 pixels, but is 28 x 28"):
        look(source)


def test_a_damaged_table_is_one_line(write):
    source = write("parquet")
    (source / "test.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"test.parquet is not a readable Parquet file of images and labels"):
        look(source)


def test_a_folder_of_other_tables_is_not_taken_for_cifar(tmp_path):
    for split in ("train", "test"):
        parquet.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / f"{split}.parquet")
    assert layout_of(tmp_path).name == "Hugging Face (Parquet)"


def test_a_missing_batch_is_named(write):
    source = write("pickles")
    (source / "data_batch_4").unlink()
    with pytest.raises(DataError, match="has the layout of CIFAR-10's pickles, but lacks data_batch_4"):
        look(source)


def test_a_hostile_batch_is_refused_and_calls_nothing(write, tmp_path):
    source, marker = write("pickles"), tmp_path / "marker"
    (source / "data_batch_2").write_bytes(f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode())
    with pytest.raises(
        DataError, match=rf"^{source}/data_batch_2 asks for posix.system, but a pickle may hold NumPy arrays"
    ):
        look(source)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((20, 5), np.uint8)}, r"must hold 'data' of n x 3072 bytes, but it is \(20, 5\)"),
        ({b"data": "words"}, "must hold 'data' of n x 3072 bytes, but it is str"),
        ({b"labels": [1, 2]}, "a list of one for each of 20 images, but it is 2"),
        ({b"labels": [*range(10), *range(9), 10]}, "must hold labels from 0 to 9, but one is 10"),
    ],
    ids=["width", "words", "count", "label"],
)
def test_a_batch_that_breaks_a_rule_is_one_line(write, change, message):
    source = write("pickles")
    batch = {b"data": np.zeros((20, 3072), np.uint8), b"labels": [0] * 20}
    write_pickle(source / "data_batch_1", batch | change)
    with pytest.raises(DataError, match=f"data_batch_1 {message}|data_batch_1 must hold 'labels', {message}"):
        look(source)


def test_class_names_of_the_pickles_are_checked(write):
    source = write("pickles")
    write_pickle(source / "batches.meta", {b"label_names": [b"cat", b"dog"]})
    with pytest.raises(DataError, match=r"batches.meta must hold CIFAR-10's class names .*but holds cat, dog"):
        look(source)


def test_cifar_100_is_refused_by_name(tmp_path):
    for name in ("train", "test", "meta"):
        (tmp_path / name).write_bytes(pickle.dumps({"fine_labels": [1]}))
    with pytest.raises(DataError, match="holds CIFAR-100, but only CIFAR-10 is read from pickles"):
        look(tmp_path)


def test_class_folders_of_other_classes_are_not_taken_for_cifar(write):
    source = write("folders")
    (source / "test" / "zebra").mkdir()
    assert layout_of(source).name == "class folders"


def test_class_folders_without_images_are_refused(tmp_path):
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"has CIFAR-10's class folders, but no file in them ends in .png, .jpg, .jpeg"):
        look(tmp_path)
