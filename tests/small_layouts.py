"""Small sets in the layouts in which public datasets are distributed, written where the documentation puts them."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

from tests.data.official_pickles import write_pickle
from tests.small_science_qa import Small


def hateful_memes(folder: Path) -> None:
    """Write the challenge's files; two of the images are missing."""
    (folder / "img").mkdir(parents=True)
    number = 1000
    for name, count in {"train": 60, "dev_seen": 10, "dev_unseen": 10, "test_seen": 10, "test_unseen": 10}.items():
        rows = []
        for _ in range(count):
            number += 7
            if number % 50:
                (folder / "img" / f"{number:05d}.png").write_bytes(picture(number))
            rows.append(
                {"id": f"{number:05d}", "img": f"img/{number:05d}.png", "label": number % 2, "text": f"meme {number}"}
            )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def science_qa(folder: Path) -> None:
    """Write the hub's Parquet files."""
    Small().parquet(folder)


def coco(folder: Path) -> None:
    """Write captions of a few photographs, and these."""
    (folder / "annotations").mkdir(parents=True)
    for split, numbers in (("train", range(100, 140)), ("val", range(900, 910))):
        (folder / f"{split}2017").mkdir()
        images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in numbers]
        for image in images:
            (folder / f"{split}2017" / image["file_name"]).write_bytes(picture(image["id"]))
        captions = [
            {"id": 10 * number + place, "image_id": number, "caption": f"photo {number} in words {place}"}
            for number in numbers
            for place in range(2)
        ]
        path = folder / "annotations" / f"captions_{split}2017.json"
        path.write_text(json.dumps({"images": images, "annotations": captions}))


def class_folders(folder: Path) -> None:
    """Write ``train`` and ``val`` with three folders of images each."""
    for split, count in (("train", 20), ("val", 5)):
        for place, name in enumerate(("n01440764", "n02012849", "n03126707")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                (folder / split / name / f"{number}.JPEG").write_bytes(
                    picture(1000 * len(split) + 100 * place + number)
                )


def cifar10(folder: Path) -> None:
    """Write the official pickles with ten images each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        write_pickle(folder / name, {b"data": pixels, b"labels": [n % 10 for n in range(20)]})


def imdb(folder: Path) -> None:
    """Write the official folders."""
    for split, count in (("train", 40), ("test", 10)):
        for label, rating in (("neg", 2), ("pos", 9)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                (folder / split / label / f"{number}_{rating}.txt").write_text(f"A {label} film, {number} of {split}.")


def moods(folder: Path) -> None:
    """Write a dataset of the hub as Parquet, with other column names."""
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 40), ("validation", 10), ("test", 10)):
        images = [{"bytes": picture(len(split) * 100 + n), "path": None} for n in range(count)]
        table = pa.table(
            {
                "photo": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                "caption": [f"{split} {n}" for n in range(count)],
                "mood": ["sad" if n % 2 else "happy" for n in range(count)],
            }
        )
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


def saved_moods(folder: Path) -> None:
    """Write the same as ``save_to_disk`` does."""
    import datasets

    datasets.disable_progress_bars()
    moods(folder.with_name("moods_to_save"))
    paths = sorted((folder.with_name("moods_to_save") / "data").iterdir())
    parts = {path.name.partition("-")[0]: datasets.Dataset(parquet.read_table(path)) for path in paths}
    datasets.DatasetDict(parts).save_to_disk(folder)


def picture(seed: int) -> bytes:
    """Return a small picture of noise."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 18, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "data/hateful_memes": hateful_memes,
    "data/science_qa": science_qa,
    "data/coco": coco,
    "data/cifar10/cifar-10-batches-py": cifar10,
    "data/imdb/aclImdb": imdb,
    "ILSVRC/Data/CLS-LOC": class_folders,
    "flowers": class_folders,
    "moods": moods,
    "saved_moods": saved_moods,
}
"""By the place at which ``docs/datasets.md`` has them."""
