"""What lies on disk between pipelines, and is no JSON: files and folders that the library made, and where it works."""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from chiasma.core.files import storage_errors


class Placed(AbstractDataset[Path, Path]):
    """A file or folder that a node made elsewhere and that is kept here; nodes are given its path.

    What stood here before is replaced only when the new one is whole.

    Args:
        filepath: Where it is kept.
        remedy: What to run where it is missing.
        move: It was made for this place alone, so that it is moved rather than copied.
    """

    def __init__(self, *, filepath: str, remedy: str, move: bool = False, metadata: Any = None) -> None:
        self._filepath = Path(filepath)
        self._remedy, self._move = remedy, move
        self.metadata = metadata

    def save(self, data: Path) -> None:
        """Copy or move what a node made."""
        place = self._filepath
        draft, old = place.with_name(f".{place.name}.new"), place.with_name(f".{place.name}.old")
        with storage_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            for rest in (draft, old):
                _remove(rest)
            _bring(data, draft, move=self._move)
            if place.exists():
                os.replace(place, old)
            os.replace(draft, place)
            _remove(old)

    def load(self) -> Path:
        """Return where it lies.

        Raises:
            DatasetError: It is not there; says what makes it.
        """
        if not self._exists():
            raise DatasetError(f"{self._filepath} is not there yet: run `kedro run --pipeline={self._remedy}` first.")
        return self._filepath

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "remedy": self._remedy, "move": self._move}


@dataclass(frozen=True)
class Workplace:
    """Where the library works.

    Attributes:
        project: What relative paths of the settings start from.
        runs: Folder of the runs.
        cache: Folder of prepared data and extracted features.
    """

    project: Path
    runs: Path
    cache: Path

    def draft(self, name: str) -> Path:
        """Return a path that nobody else uses, for what is moved to its place when it is whole."""
        folder = self.cache / "drafts"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{secrets.token_hex(8)}-{name}"


class WorkplaceDataset(AbstractDataset[None, Workplace]):
    """The folders below ``filepath`` in which the library works; nothing is read or written here.

    Args:
        filepath: The folder ``data`` of the project.
        runs: Folder of the runs, below it.
        cache: Folder of prepared data, below it.
    """

    def __init__(self, *, filepath: str, runs: str, cache: str, metadata: Any = None) -> None:
        self._filepath = Path(filepath)
        self._runs, self._cache = runs, cache
        self.metadata = metadata

    def save(self, data: None) -> None:
        """Refuse: nobody makes a workplace."""
        raise DatasetError("The workplace is given by the catalog; no node may save it.")

    def load(self) -> Workplace:
        """Return the folders."""
        folder = self._filepath
        return Workplace(project=folder.parent, runs=folder / self._runs, cache=folder / self._cache)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "runs": self._runs, "cache": self._cache}


def _bring(data: Path, place: Path, *, move: bool) -> None:
    if move:
        shutil.move(data, place)
    elif data.is_dir():
        shutil.copytree(data, place)
    else:
        shutil.copyfile(data, place)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
