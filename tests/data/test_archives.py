"""Archives that were made to do harm, and ones that were not."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from chiasma.core.errors import DataError
from chiasma.data.archives import extract

Make = Callable[[Path], Path]


def tar_of(path: Path, *members: tarfile.TarInfo, data: bytes = b"harm", mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            if member.isreg():
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(path: Path, name: str, *, mode: int = stat.S_IFREG | 0o644) -> Path:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(info, "/etc/passwd")
    return path


HOSTILE: dict[str, tuple[Make, str]] = {
    "absolute tar": (lambda p: tar_of(p / "a.tar.gz", member("good"), member("/etc/owned")), "has an absolute path"),
    "parent tar": (lambda p: tar_of(p / "a.tar.gz", member("x/../../owned")), "leads out of its folder"),
    "symlink tar": (lambda p: tar_of(p / "a.tar.gz", member("l", tarfile.SYMTYPE, "/etc")), "is a link or a device"),
    "hard link tar": (lambda p: tar_of(p / "a.tgz", member("l", tarfile.LNKTYPE, "/etc/x")), "is a link or a device"),
    "device tar": (lambda p: tar_of(p / "a.tar", member("d", tarfile.CHRTYPE), mode="w"), "is a link or a device"),
    "fifo tar": (lambda p: tar_of(p / "a.tar", member("d", tarfile.FIFOTYPE), mode="w"), "is a link or a device"),
    "absolute zip": (lambda p: zip_of(p / "a.zip", "/etc/owned"), "has an absolute path"),
    "parent zip": (lambda p: zip_of(p / "a.zip", "../owned"), "leads out of its folder"),
    "backslash zip": (lambda p: zip_of(p / "a.zip", "x\\..\\..\\owned"), "leads out of its folder"),
    "drive zip": (lambda p: zip_of(p / "a.zip", "C:/owned"), "has an absolute path"),
    "symlink zip": (lambda p: zip_of(p / "a.zip", "link", mode=stat.S_IFLNK | 0o777), "is a link or a device"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path, name):
    make, why = HOSTILE[name]
    (tmp_path / "in").mkdir()
    archive = make(tmp_path / "in")
    with pytest.raises(DataError, match=f"was refused and nothing of it is used: its member .* {why}"):
        extract(archive, tmp_path / "out" / "here")
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_bomb_is_refused_before_anything_is_written(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(5_000_000))
    with pytest.raises(DataError, match=r"would grow to 5,000,000 bytes, but at most 1,000,000 are taken out"):
        extract(tmp_path / "bomb.zip", tmp_path / "out", most_bytes=1_000_000)
    assert not (tmp_path / "out").exists()


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    path = tmp_path / "lie.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small", b"x" * 100)
    data = bytearray(path.read_bytes())
    # In the central directory, which is what is believed of a zip file.
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"lie.zip (was refused|is damaged)"):
        extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_truncated_archive_is_refused_and_leaves_nothing(tmp_path, name):
    if name.endswith(".zip"):
        zip_of(tmp_path / name, "other.txt")
    else:
        tar_of(tmp_path / name, member("a"), member("b"), data=bytes(range(256)) * 500)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"The archive .*{name} is damaged or of another kind"):
        extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plain_archive_is_extracted_beside_what_is_there(tmp_path):
    tar_of(tmp_path / "a.tar.gz", member("img", tarfile.DIRTYPE), member("img/1.png"), member("./img/2.png"))
    (tmp_path / "out" / "img").mkdir(parents=True)
    (tmp_path / "out" / "img" / "3.png").write_text("kept")
    assert extract(tmp_path / "a.tar.gz", tmp_path / "out") == 2
    assert sorted(path.name for path in (tmp_path / "out" / "img").iterdir()) == ["1.png", "2.png", "3.png"]
    assert (tmp_path / "out" / "img" / "1.png").read_bytes() == b"harm"


def test_an_empty_archive_is_an_error(tmp_path):
    tar_of(tmp_path / "a.tar")
    with pytest.raises(DataError, match="holds no file"):
        extract(tmp_path / "a.tar", tmp_path / "out")
