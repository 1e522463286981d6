"""A small set of problems in ScienceQA's two layouts."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

SUBJECTS = ("natural science", "social science", "language science")
COUNTS = {"train": 70, "val": 15, "test": 20}


def problem(number: int) -> dict:
    return {
        "question": f"Which number is {number}?",
        "choices": [f"choice {number}.{place}" for place in range(2 + number % 3)],
        "answer": number % (2 + number % 3),
        "hint": f"Some context of {number}." if number % 4 < 2 else "",
        "image": "image.png" if number % 2 else None,
        "task": "closed choice",
        "grade": f"grade{1 + number % 12}",
        "subject": SUBJECTS[number % 3],
        "topic": "numbers",
        "category": "Numbers",
        "skill": "count",
        "lecture": f"To count {number} one begins with one.",
        "solution": f"It is one of {number}.",
    }


def picture(number: int) -> bytes:
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (24, 30, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Small:
    """Problems of three splits; every second one has an image."""

    def __init__(self) -> None:
        self.splits: dict[str, list[str]] = {}
        number = 0
        for split, count in COUNTS.items():
            self.splits[split] = [str(number + place) for place in range(count)]
            number += count
        self.problems = {pid: problem(int(pid)) for pids in self.splits.values() for pid in pids}

    def folder(self, folder: Path, *, images: str | None = "images") -> Path:
        folder.mkdir(parents=True)
        (folder / "problems.json").write_text(json.dumps(self.problems))
        (folder / "pid_splits.json").write_text(json.dumps({**self.splits, "minitrain": ["1"]}))
        (folder / "captions.json").write_text(json.dumps({"captions": {"1": "a picture of one"}}))
        for split, pids in self.splits.items():
            for pid in pids:
                if images is not None and self.problems[pid]["image"]:
                    place = folder / images / split / pid
                    place.mkdir(parents=True)
                    (place / "image.png").write_bytes(picture(int(pid)))
        return folder

    def parquet(self, folder: Path) -> Path:
        (folder / "data").mkdir(parents=True)
        for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
            rows = [self.problems[pid] for pid in self.splits[split]]
            images = [{"bytes": picture(int(pid)), "path": None} for pid in self.splits[split]]
            cells = [image if row["image"] else None for row, image in zip(rows, images, strict=True)]
            columns = {key: [row[key] for row in rows] for key in rows[0] if key != "image"}
            image = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
            parquet.write_table(
                pa.table({"image": image, **columns}), folder / "data" / f"{name}-00000-of-00001-0123abcd.parquet"
            )
        return folder
