"""A second source for images: folders and archives in which those are looked for that are not where they should be."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from chiasma.core.errors import DataError
from chiasma.data.archives import SUFFIXES, extract, is_archive
from chiasma.data.manifest import DataSpec, Table

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def with_fallbacks(table: Table, spec: DataSpec, *, cache: Path, progress: Callable[[str], None]) -> Table:
    """Return the table with the places of images that are missing below its image folder and are found elsewhere.

    An image is looked for by its whole name, then by its file name alone, where only one file is called so.

    Args:
        table: The rows.
        spec: Its ``image_fallbacks`` say where to look, in order.
        cache: Archives are extracted below it, once.
        progress: Told what is being done.

    Raises:
        DataError: A fallback is neither a folder nor an archive, or the archive is refused.
    """
    root = table.image_root
    if not spec.image_fallbacks or root is None:
        return table
    missing = [name for name in dict.fromkeys(table.frame["image"].dropna()) if _is_missing(name, table)]
    found: dict[str, Path] = {}
    for place in spec.image_fallbacks:
        if not missing:
            break
        folder = _folder_of(Path(place).expanduser(), cache=cache, progress=progress)
        by_name = _by_file_name(folder)
        here = {name: path for name in missing if (path := _place(name, folder, by_name)) is not None}
        found |= here
        missing = [name for name in missing if name not in here]
        table.findings.counts[f"images found in {Path(place).name}, because they were missing"] += len(here)
    return replace(table, elsewhere={**table.elsewhere, **found})


def fallbacks_stamp(spec: DataSpec) -> list[str]:
    """Return a hash for each fallback that changes with the images in it."""
    return [_stamp(Path(place).expanduser()) for place in spec.image_fallbacks]


def _is_missing(name: str, table: Table) -> bool:
    if name in table.arrays or not name.isprintable():
        return False
    path = table.image_file(name)
    return path is not None and not path.exists()


def _folder_of(place: Path, *, cache: Path, progress: Callable[[str], None]) -> Path:
    if place.is_dir():
        return place
    if not is_archive(place):
        raise DataError(
            f"data.image_fallbacks: {place} must be a folder or an archive ({', '.join(SUFFIXES)}), but "
            f"{'is neither' if place.exists() else 'does not exist'}."
        )
    folder = cache / "archives" / _stamp(place)[:20]
    if not folder.is_dir():
        progress(f"extracting {place}")
        extract(place, folder)
    return folder


def _stamp(place: Path) -> str:
    paths = sorted(_images_below(place)) if place.is_dir() else [place]
    stats = [(str(path), path.stat()) for path in paths if path.exists()]
    lines = [repr((name, status.st_size, status.st_mtime_ns)) for name, status in stats]
    return hashlib.sha256("\n".join([str(place.resolve()), *lines]).encode(errors="surrogateescape")).hexdigest()


def _images_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file()]


def _by_file_name(folder: Path) -> Mapping[str, Path | None]:
    """Return the images of a folder by file name; None where several have the name."""
    found: dict[str, Path | None] = {}
    for path in sorted(_images_below(folder)):
        found[path.name] = None if path.name in found else path
    return found


def _place(name: str, folder: Path, by_name: Mapping[str, Path | None]) -> Path | None:
    whole = folder / name
    if ".." not in Path(name).parts and not Path(name).is_absolute() and whole.is_file():
        return whole.resolve()
    alone = by_name.get(Path(name).name)
    return None if alone is None else alone.resolve()
