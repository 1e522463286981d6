"""COCO captions (Chen et al. 2015, https://arxiv.org/abs/1504.00325): about five sentences for each photograph.

``annotations/captions_train2017.json`` and ``captions_val2017.json`` (or of another year) with the photographs in
``train2017`` and ``val2017``, also below ``images``. A row is one caption, and a group the captions of one photograph.
For retrieval (``contrastive``) the caption is the text and nothing is labelled; for captioning (``generation``) it is
the label. COCO's own test captions are secret, so that val is the test split.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasma.core.errors import DataError
from chiasma.data.records import BadLine, Records, stamp_of_files

COLUMNS = ("id", "img", "caption", "group", "split")
COLUMNS_OF_TASK: Mapping[str, Mapping[str, str | tuple[str, ...]]] = {
    "contrastive": {"text": ("caption",)},
    "generation": {"label": "caption"},
}
_FILE = re.compile(r"captions_(?P<split>train|val)(?P<year>\d{4})\.json")
_SPLITS = {"train": "train", "val": "test"}


def is_coco(path: Path) -> bool:
    """Return whether a path is a folder with COCO's captions."""
    return bool(_files(path))


def stamp_coco(folder: Path) -> str:
    """Return a hash of the captions; the images' contents are watched like those of any image file."""
    return stamp_of_files(folder, [str(path.relative_to(folder)) for path, _, _ in _files(folder)])


def read_coco(folder: Path) -> tuple[Records, list[str]]:
    """Read the captions of train and val.

    Returns:
        The rows, and notes about what is missing. Lines are counted through the annotations of all files in order.

    Raises:
        DataError: A file is damaged, or no folder holds its images.
    """
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    bad: list[BadLine] = []
    notes: list[str] = []
    files = _files(folder)
    splits = {split for _, split, _ in files}
    line = 0
    for path, split, year in files:
        content = _content(path)
        names, place = _image_names(content), _image_folder(folder, f"{split}{year}", path)
        for annotation in content["annotations"]:
            line += 1
            try:
                name, caption = names[annotation["image_id"]], str(annotation["caption"]).strip()
                identity, group = str(annotation["id"]), str(annotation["image_id"])
            except (KeyError, TypeError) as error:
                bad.append(BadLine(line, "not a usable caption", f"{path.name}: {annotation!r} lacks {error}"))
                continue
            row = {"id": f"{split}-{identity}", "img": f"{place}/{name}", "caption": caption, "group": group}
            rows.append({**row, "split": _SPLITS[split] if splits == set(_SPLITS) else None})
            lines.append(line)
    if splits == set(_SPLITS):
        notes.append("COCO's val photographs are the sealed test split; select is cut from train by photograph.")
    return Records(COLUMNS, rows, lines, bad, stamp_coco(folder)), notes


def _files(folder: Path) -> list[tuple[Path, str, str]]:
    """Return the caption files with their split and year, train first; of several years the latest."""
    top = folder / "annotations"
    found: dict[str, tuple[Path, str, str]] = {}
    for path in sorted(top.iterdir()) if top.is_dir() else ():
        match = _FILE.fullmatch(path.name)
        if match is not None:
            found[match["split"]] = (path, match["split"], match["year"])
    return [found[split] for split in _SPLITS if split in found]


def _content(path: Path) -> Mapping[str, Sequence[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from None
    for part in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise DataError(f"{path} must hold the lists images and annotations, but has no {part}.")
    return content


def _image_names(content: Mapping[str, Sequence[Any]]) -> Mapping[Any, str]:
    return {image.get("id"): str(image.get("file_name")) for image in content["images"] if isinstance(image, dict)}


def _image_folder(folder: Path, name: str, captions: Path) -> str:
    for place in (name, f"images/{name}"):
        if (folder / place).is_dir():
            return place
    raise DataError(f"{captions} captions photographs of {name}, but {folder} has neither {name} nor images/{name}.")
