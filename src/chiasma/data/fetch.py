"""Public datasets by name: what is fetched, under which terms, and how it is put where its reader finds it."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasma.core.errors import ConfigError, DataError
from chiasma.core.files import storage_errors, write_json
from chiasma.core.spec import suggestion
from chiasma.data.archives import SUFFIXES, extract, is_archive
from chiasma.data.download import Remote, digest_of, download

LOCK = "fetched.json"
DOWNLOADS = "downloads"
IMAGES = (".png", ".jpg", ".jpeg")
_MEMES = "https://huggingface.co/datasets/neuralcatcher/hateful_memes/resolve/main"
_SCIENCE = "https://huggingface.co/datasets/derek-thomas/ScienceQA/resolve/main/data"
_COCO = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Public:
    """A dataset that can be fetched.

    Attributes:
        title: As people call it.
        terms: Under which it may be used, and where they stand.
        files: What is fetched.
        below: Where the files of archives, or the files themselves, go below the dataset's folder.
        data: What is then given as DATA, below that folder.
        after: What is to be known or done when all is there.
        takes_images: Its images come from an archive that the user has.
    """

    title: str
    terms: str
    files: tuple[Remote, ...]
    below: str = ""
    data: str = ""
    after: str = ""
    takes_images: bool = False


PUBLIC: Mapping[str, Public] = {
    "hateful_memes": Public(
        "Hateful Memes (Kiela et al. 2020)",
        "Meta's Hateful Memes licence: research only, no redistribution, images licensed from Getty. Read it in "
        "LICENSE.txt of https://huggingface.co/datasets/neuralcatcher/hateful_memes; it contains hate speech.",
        tuple(
            Remote(f"{_MEMES}/{name}")
            for name in (
                "LICENSE.txt",
                *(f"{part}.jsonl" for part in ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen")),
            )
        ),
        after="Its images may not be passed on, so they are not fetched. Give the archive that you have: --images "
        "ARCHIVE. Where it lacks some: data.image_fallbacks.",
        takes_images=True,
    ),
    "science_qa": Public(
        "ScienceQA (Lu et al. 2022)",
        "CC BY-NC-SA 4.0: not commercial, share alike. https://scienceqa.github.io",
        tuple(
            Remote(f"{_SCIENCE}/{name}.parquet")
            for name in (
                "train-00000-of-00001-1028f23e353fbe3e",
                "validation-00000-of-00001-6c7328ff6c84284c",
                "test-00000-of-00001-f0e719df791966ff",
            )
        ),
        below="data",
    ),
    "coco": Public(
        "COCO 2017 captions (Lin et al. 2014; Chen et al. 2015)",
        "Annotations CC BY 4.0; each photograph under its owner's Flickr terms. https://cocodataset.org/#termsofuse. "
        "About 20 GB, twice while it is extracted.",
        (
            Remote(f"{_COCO}/annotations/annotations_trainval2017.zip", leaves="annotations"),
            Remote(f"{_COCO}/zips/val2017.zip", leaves="val2017"),
            Remote(f"{_COCO}/zips/train2017.zip", leaves="train2017"),
        ),
        after="Say what is to be learned: --task contrastive or --task generation.",
    ),
    "cifar10": Public(
        "CIFAR-10 (Krizhevsky 2009)",
        "No licence is stated; its authors ask to be cited. https://www.cs.toronto.edu/~kriz/cifar.html",
        (
            Remote(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "md5:c58f30108f718f92721af3b95e74349a",
                leaves="cifar-10-batches-py",
            ),
        ),
        data="cifar-10-batches-py",
    ),
    "imdb": Public(
        "IMDB reviews (Maas et al. 2011)",
        "No licence is stated; its authors ask to be cited. https://ai.stanford.edu/~amaas/data/sentiment",
        (
            Remote(
                "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
                "md5:7c2ac02c03563afcf9b574c7e56c153a",
                leaves="aclImdb",
            ),
        ),
        data="aclImdb",
    ),
}


@dataclass(frozen=True)
class Fetched:
    """What is there now.

    Attributes:
        data: What to give as DATA.
        words: What a person should know of it, one line each.
    """

    data: Path
    words: tuple[str, ...]


def public(name: str) -> Public:
    """Return a dataset by name.

    Raises:
        ConfigError: There is none of that name; the nearest is suggested.
    """
    if name not in PUBLIC:
        raise ConfigError(
            f"data fetch: {name!r} is none of {', '.join(PUBLIC)}.{suggestion(name, list(PUBLIC))} Datasets of the "
            "Hugging Face hub need no fetching: give hf:OWNER/NAME as DATA."
        )
    return PUBLIC[name]


def fetch(
    dataset: Public,
    folder: Path,
    *,
    images: str | None = None,
    progress: Callable[[str], None],
    wait_seconds: float = 1.0,
) -> Fetched:
    """Fetch what is not there yet, check it, and put it where its reader finds it.

    A file without a published checksum is noted in ``fetched.json`` when it first comes; from then on it must be the
    same. Archives are kept in ``downloads`` until they are extracted.

    Args:
        dataset: What is fetched.
        folder: Where it goes.
        images: An archive of images, a file or an address, for datasets that do not bring theirs.
        progress: Told how far it is.
        wait_seconds: Between attempts.

    Raises:
        ConfigError: Images are given for a dataset that has its own.
        DownloadError: A file cannot be fetched, or is not what it was.
        DataError: An archive is damaged or hostile.
    """
    if images is not None and not dataset.takes_images:
        raise ConfigError(f"--images: {dataset.title} brings its images, but got {images}.")
    with storage_errors(folder):
        (folder / dataset.below).mkdir(parents=True, exist_ok=True)
    words: list[str] = []
    for remote in dataset.files:
        words += _fetched(remote, folder, folder / dataset.below, progress, wait_seconds)
    if images is not None:
        words.append(_put_images(images, folder, progress, wait_seconds))
    elif dataset.after:
        words.append(dataset.after)
    return Fetched(folder / dataset.data, tuple(words))


def _fetched(
    remote: Remote, folder: Path, place: Path, progress: Callable[[str], None], wait_seconds: float
) -> list[str]:
    """Fetch one file, or nothing where the lock says that it is here already."""
    lock = _read_lock(folder)
    known = lock.get(remote.url)
    archive = remote.name.lower().endswith(SUFFIXES)
    path = (folder / DOWNLOADS if archive else place) / remote.name
    if known is not None and ((place / remote.leaves).is_dir() if archive else path.is_file()):
        if not archive:
            _check_same(path, known, remote)
        return [f"{remote.name}: already here"]
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        download(remote, path, progress=progress, wait_seconds=wait_seconds)
    found = _noted(remote, path)
    _check_same(path, known or found, remote)
    if archive:
        progress(f"{remote.name}: extracting")
        found["files"] = extract(path, place)
    write_json(folder / LOCK, {**lock, remote.url: found})
    if archive:
        path.unlink()
        shutil.rmtree(path.parent, ignore_errors=True)
    verified = "its published checksum is right" if remote.checksum else "no checksum is published; it is noted"
    return [f"{remote.name}: {found['bytes']:,} bytes, {verified} ({found['sha256'][:19]}...)"]


def _noted(remote: Remote, path: Path) -> dict[str, Any]:
    """Return what is kept of a file that is here, which somebody may have put there by hand.

    Raises:
        DataError: It is not the file that was published.
    """
    if remote.checksum is not None:
        own = digest_of(path, remote.checksum.partition(":")[0])
        if own != remote.checksum:
            raise DataError(
                f"{path} is not the file that was published: its checksum must be {remote.checksum}, but is {own}. "
                "Delete it and run this again."
            )
    return {"sha256": digest_of(path), "bytes": path.stat().st_size}


def _check_same(path: Path, known: Mapping[str, Any], remote: Remote) -> None:
    found = digest_of(path)
    if found != known["sha256"]:
        raise DataError(
            f"{path} is not the file that came from {remote.url} before: its checksum was {known['sha256']}, but is "
            f"{found}. Put the old one back, or delete it together with {LOCK}."
        )


def _read_lock(folder: Path) -> dict[str, Any]:
    path = folder / LOCK
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Delete it to fetch anew.") from None


def _put_images(images: str, folder: Path, progress: Callable[[str], None], wait_seconds: float) -> str:
    """Put the images of an archive into ``img`` under their own file names."""
    archive = Path(images).expanduser()
    if images.startswith(("https://", "http://")):
        remote = Remote(images)
        archive = folder / DOWNLOADS / remote.name
        with storage_errors(archive):
            archive.parent.mkdir(parents=True, exist_ok=True)
        if not archive.is_file():
            download(remote, archive, progress=progress, wait_seconds=wait_seconds)
    if not is_archive(archive):
        raise DataError(f"--images: {images} must be a zip or tar file, or the address of one.")
    progress(f"{archive.name}: extracting")
    extracted = folder / DOWNLOADS / "images"
    extract(archive, extracted)
    (folder / "img").mkdir(exist_ok=True)
    count = 0
    for path in sorted(extracted.rglob("*")):
        if path.is_file() and path.suffix.lower() in IMAGES:
            path.replace(folder / "img" / path.name)
            count += 1
    shutil.rmtree(extracted)
    if not count:
        raise DataError(f"--images: {images} holds no image ({', '.join(IMAGES)}).")
    return f"{archive.name}: {count:,} images in {folder / 'img'}"
