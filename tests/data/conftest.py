"""A small table of pictures and captions that the data tests write, spoil and prepare."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasma.data.dataset import Dataset
from chiasma.data.manifest import DataSpec
from chiasma.data.prepare import prepare
from chiasma.data.report import DataReport


@dataclass
class Memes:
    """A folder with ``count`` pictures of noise, each with a caption; label ``yes`` or ``no``."""

    folder: Path
    count: int = 60
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        (self.folder / "img").mkdir(parents=True)
        for number in range(self.count):
            name = f"img/{number:05d}.png"
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(self.folder / name)
            label = "yes" if number % 2 else "no"
            self.rows.append({"id": f"{number:05d}", "img": name, "text": f"caption number {number}", "label": label})

    def write(self, name: str = "manifest.jsonl") -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        return path

    def spec(self, **settings: Any) -> DataSpec:
        return DataSpec.from_dict({"source": str(self.write()), **settings})

    def prepare(self, **settings: Any) -> tuple[Dataset, DataReport]:
        return prepare(self.spec(**settings), seed=0, cache=self.folder / "cache")

    def set_aside(self, report: DataReport) -> dict[str, dict[str, Any]]:
        """Return the quarantine file's entries by id."""
        if report.quarantine_file is None:
            return {}
        entries = [json.loads(line) for line in Path(report.quarantine_file).read_text().splitlines()]
        return {entry["id"]: entry for entry in entries}


@pytest.fixture
def memes(tmp_path: Path) -> Memes:
    return Memes(tmp_path / "memes")


@pytest.fixture
def make_memes(tmp_path: Path) -> Callable[[int], Memes]:
    return lambda count: Memes(tmp_path / f"memes{count}", count)
