"""From a source to a prepared folder in the cache, once; the second time it is only opened."""

import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import chiasma
from chiasma.core.errors import CorruptFileError, DataError
from chiasma.core.files import sha256_file, storage_errors, sync_folder, write_json
from chiasma.core.spec import canonical_json
from chiasma.data.assemble import assemble
from chiasma.data.captions import Describe
from chiasma.data.dataset import MANIFEST, Dataset
from chiasma.data.decoding import image_path
from chiasma.data.digit_claims import SOURCES as BUILT_IN
from chiasma.data.fallbacks import fallbacks_stamp, with_fallbacks
from chiasma.data.feature_archives import tokens_file
from chiasma.data.manifest import DataSpec, Table, read, source_stamp
from chiasma.data.published import Published
from chiasma.data.published_images import read_image_processor
from chiasma.data.published_text import read_tokenizer
from chiasma.data.report import DataReport

REPORT = "report.json"
QUARANTINE = "quarantine.jsonl"

Progress = Callable[[str], None]


def silent(line: str) -> None:
    """Tell nobody."""


def prepare(
    spec: DataSpec,
    *,
    seed: int,
    cache: Path,
    progress: Progress = silent,
    table: Table | None = None,
    describe: Describe | None = None,
) -> tuple[Dataset, DataReport]:
    """Read, clean, split, tokenise and decode a source, or open what was prepared from the same before.

    Args:
        spec: What to read and how.
        seed: Decides how splits are cut where the source has none.
        cache: The folder that keeps prepared data, one folder for each source, settings and seed.
        progress: Told in a line what is being done.
        table: Rows in memory, from :func:`chiasma.data.manifest.from_frame`, instead of ``spec.source``.
        describe: Writes captions of images, where the settings want that.

    Raises:
        DataError: The source cannot be used; says why in a line.
        ConfigError: The tokenizer or image processor that the settings name cannot be read.
        StorageError: The cache cannot be written to; nothing half-made is left.
    """
    cache = Path(cache).expanduser()
    spec = with_published(spec)
    table, stamp = _stamped(spec, table, cache)
    key = hashlib.sha256(canonical_json([stamp, spec.to_dict(), seed, _code_stamp()]).encode()).hexdigest()[:20]
    folder = cache / "prepared" / key
    known = _reopened(folder, progress)
    if known is not None:
        return known
    started = time.monotonic()
    table = with_fallbacks(table or read(spec), spec, cache=cache, progress=progress)
    with _building(folder) as temporary:
        manifest, report = assemble(table, spec, seed=seed, folder=temporary, progress=progress, describe=describe)
        quarantine = str(folder / QUARANTINE) if report.quarantined else None
        (temporary / QUARANTINE).write_text(table.findings.quarantine_lines())
        seconds = round(time.monotonic() - started, 3)
        finished = report.model_copy(update={"quarantine_file": quarantine, "seconds": seconds, "folder": str(folder)})
        write_json(temporary / REPORT, finished.to_dict())
        write_json(temporary / MANIFEST, {**manifest, "key": key, "files": _inventory(temporary)})
    return Dataset.open(folder), finished


def with_published(spec: DataSpec) -> DataSpec:
    """Return the settings with the hashes of the published tokenizer and image processor that they name.

    Raises:
        ConfigError: One of them cannot be read.
    """
    found: dict[str, Published] = {}
    if spec.tokenizer is not None and spec.tokenizer.sha256 is None:
        found["tokenizer"] = spec.tokenizer.checked(read_tokenizer(spec.tokenizer).sha256, what="tokenizer")
    if spec.image_processor is not None and spec.image_processor.sha256 is None:
        sha256 = read_image_processor(spec.image_processor).sha256
        found["image_processor"] = spec.image_processor.checked(sha256, what="image processor")
    return spec.model_copy(update=found)


def _stamped(spec: DataSpec, table: Table | None, cache: Path) -> tuple[Table | None, Any]:
    """Return what identifies the source's content, and the table where it had to be read for that."""
    features: list[Any] = [
        _file_stamp(tokens_file(Path(path).expanduser())) for _, path in sorted(spec.features.items())
    ]
    features += fallbacks_stamp(spec)
    if spec.captions is not None and spec.captions.file is not None:
        features.append(_file_stamp(Path(spec.captions.file).expanduser()))
    if table is None and spec.source in BUILT_IN:
        return None, [spec.source, features]
    if table is not None:
        return table, [table.stamp, _images_stamp(*_image_files(table)), features]
    stamp = source_stamp(spec)
    identity = canonical_json([str(Path(spec.source).expanduser().resolve()), stamp, spec.to_dict(), _code_stamp()])
    listing = cache / "prepared" / "images" / f"{hashlib.sha256(identity.encode()).hexdigest()[:20]}.json"
    if stamp is not None and listing.is_file():
        names = json.loads(listing.read_text())
        return None, [stamp, _images_stamp(names["root"], names["files"]), features]
    table = read(spec)
    root, files = _image_files(table)
    with storage_errors(listing):
        listing.parent.mkdir(parents=True, exist_ok=True)
    write_json(listing, {"root": root, "files": files})
    return table, [table.stamp, _images_stamp(root, files), features]


def _image_files(table: Table) -> tuple[str | None, list[str]]:
    """Return the image folder and the image names below it that the table has."""
    if table.image_root is None:
        return None, []
    names = sorted(name for name in set(table.frame["image"].dropna()) - set(table.arrays) if name.isprintable())
    return str(table.image_root.resolve()), names


def _images_stamp(root: str | None, files: list[str]) -> str:
    """Return a hash of every image file's place, size and time of change, which a changed file does not keep."""
    paths = [] if root is None else [image_path(name, Path(root)) for name in files]
    stamps = [_file_stamp(path) if path else None for path in paths]
    return hashlib.sha256(repr([root, stamps]).encode()).hexdigest()


def _file_stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (str(path), -1, -1)
    return (str(path), status.st_size, status.st_mtime_ns)


def _code_stamp() -> str:
    """Return a hash of this layer's own code: another version may prepare the same source differently."""
    digest = hashlib.sha256(chiasma.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _reopened(folder: Path, progress: Progress) -> tuple[Dataset, DataReport] | None:
    if not (folder / MANIFEST).is_file():
        return None
    try:
        dataset = Dataset.open(folder, verify=True)
    except CorruptFileError as error:
        progress(f"{error} Preparing again.")
        with storage_errors(folder):
            shutil.rmtree(folder)
        return None
    return dataset, DataReport.from_json((folder / REPORT).read_text())


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the name ``folder`` only when all of it is on disk."""
    temporary = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.building")
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        temporary.mkdir()
        try:
            yield temporary
            for path in temporary.iterdir():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            sync_folder(temporary)
            # Another process that finished first made the same.
            if not folder.exists():
                os.rename(temporary, folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what processes of this machine that are gone left half-made."""
    for path in parent.glob(".*.building"):
        match = re.fullmatch(rf"\.\w+\.{re.escape(socket.gethostname())}\.(\d+)\.building", path.name)
        if match and not psutil.pid_exists(int(match.group(1))):
            shutil.rmtree(path, ignore_errors=True)


def _inventory(folder: Path) -> dict[str, tuple[int, str]]:
    return {path.name: (path.stat().st_size, sha256_file(path)) for path in sorted(folder.iterdir())}


def prepared_folder(cache: Path, key: str) -> Path:
    """Return where the dataset with a key lies.

    Raises:
        DataError: It is not there.
    """
    folder = Path(cache).expanduser() / "prepared" / key
    if not (folder / MANIFEST).is_file():
        raise DataError(f"The prepared dataset {key} is not in {folder.parent}; prepare it again.")
    return folder
