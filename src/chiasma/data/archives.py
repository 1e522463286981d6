"""Zip and tar files from elsewhere, taken apart without letting them decide where anything is written.

Every member is looked at before the first is written: one that leads out of the folder, is a link or a device, or
makes the whole larger than it may be, and nothing of the archive is used.
"""

import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from chiasma.core.errors import DataError
from chiasma.core.files import storage_errors

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST_GROWTH = 20
"""So many times its own size may an archive grow, beyond the first GiB: text shrinks to a tenth, a bomb to less."""

MOST_MEMBERS = 2_000_000
_FIRST = 2**30
_CHUNK = 2**20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class _Member:
    """A file in an archive.

    Attributes:
        open: Returns its content.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Return whether a file is called like an archive that can be extracted."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def extract(archive: Path, folder: Path, *, most_bytes: int | None = None) -> int:
    """Write the files of an archive below ``folder``, whole or not at all, and return how many.

    Files that are there are replaced; what an earlier extraction left is kept. Names, sizes and kinds of all members
    are checked first, and no more bytes of a member are written than it says it has.

    Args:
        archive: A zip or tar file.
        folder: Made where it is not there.
        most_bytes: Most that the files may have together; None for a GiB and twenty times the archive's own size.

    Raises:
        DataError: The archive is damaged, too large, or has a member that leads elsewhere; nothing of it is left.
        StorageError: The folder cannot be written to, or the disk is full.
    """
    limit = _FIRST + LARGEST_GROWTH * archive.stat().st_size if most_bytes is None else most_bytes
    temporary = folder.with_name(f".{folder.name}.extracting")
    with storage_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            count = _write_all(archive, temporary, limit)
            _move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return count


def _write_all(archive: Path, folder: Path, limit: int) -> int:
    try:
        with _opened(archive) as found:
            members = list(_members(found, archive))
            _check_sizes(members, archive, limit)
            for member in members:
                _write(member, folder / member.name, archive)
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"The archive {archive} is damaged or of another kind: {reason}.") from None
    except RuntimeError as error:
        raise DataError(f"The archive {archive} cannot be read: {error}.") from None
    return len(members)


def _opened(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    return zipfile.ZipFile(archive) if archive.name.lower().endswith(".zip") else tarfile.open(archive)


def _members(found: zipfile.ZipFile | tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    """Yield the files; folders are made where files need them.

    Raises:
        DataError: A member is neither file nor folder, or leads out of the folder.
    """
    if isinstance(found, zipfile.ZipFile):
        for info in found.infolist():
            kind = info.external_attr >> 28
            if info.create_system == 3 and kind not in (0, 4, 8):
                raise _refused(archive, info.filename, "is a link or a device")
            _check_name(archive, info.filename)
            if not info.is_dir():
                yield _Member(info.filename, info.file_size, lambda info=info: found.open(info))
        return
    for member in found:
        if not member.isreg() and not member.isdir():
            raise _refused(archive, member.name, "is a link or a device")
        _check_name(archive, member.name)
        if member.isreg():
            yield _Member(member.name, member.size, lambda member=member: _content(found, member))


def _content(found: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = found.extractfile(member)
    assert content is not None
    return content


def _check_name(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or name.startswith("\\") or (len(name) > 1 and name[1] == ":"):
        raise _refused(archive, name, "has an absolute path")
    if ".." in path.parts or ".." in name.replace("\\", "/").split("/"):
        raise _refused(archive, name, "leads out of its folder")
    if "\0" in name or not name.isprintable():
        raise _refused(archive, name, "has a name that cannot be printed")


def _check_sizes(members: list[_Member], archive: Path, limit: int) -> None:
    total = sum(member.size for member in members)
    if total > limit:
        raise DataError(f"The archive {archive} would grow to {total:,} bytes, but at most {limit:,} are taken out.")
    if len(members) > MOST_MEMBERS:
        raise DataError(
            f"The archive {archive} holds {len(members):,} files, but at most {MOST_MEMBERS:,} are taken out."
        )
    if not members:
        raise DataError(f"The archive {archive} holds no file.")


def _write(member: _Member, path: Path, archive: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as content, open(path, "wb") as file:
        while chunk := content.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise _refused(archive, member.name, f"is larger than the {member.size:,} bytes that it says")
            file.write(chunk)
    if left:
        raise _refused(archive, member.name, f"ends {left:,} bytes early")


def _move(source: Path, target: Path) -> None:
    """Put the files of one folder into another on the same disk."""
    if not target.exists():
        os.rename(source, target)
        return
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)


def _refused(archive: Path, name: str, why: str) -> DataError:
    return DataError(f"The archive {archive} was refused and nothing of it is used: its member {name!r} {why}.")
