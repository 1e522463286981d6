"""Files are the old one or the new one, and errors of the disk are one line."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from chiasma.core.errors import CorruptFileError, StorageError
from chiasma.core.files import (
    file_system,
    read_json,
    refuse_network_drive,
    sha256_file,
    storage_errors,
    write_atomic,
    write_json,
)


def test_a_file_is_written_and_leaves_nothing_else(tmp_path: Path):
    write_atomic(tmp_path / "a.txt", "old")
    write_atomic(tmp_path / "a.txt", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_json_is_written_readably_and_read_strictly(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "ß"})
    assert (tmp_path / "a.json").read_text().startswith('{\n  "a": "ß"')
    assert read_json(tmp_path / "a.json") == {"a": "ß", "b": [1, 2.5]}


def test_json_with_nan_is_not_written_and_the_old_file_stays(tmp_path: Path):
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert read_json(tmp_path / "a.json") == {"loss": 1.0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"a": 1, "a": 2}', "key 'a' is there twice"), ("[1", "Expecting"), ("\xff", "codec"), ("[NaN]", "NaN")],
)
def test_json_that_is_damaged_names_the_file_and_the_reason(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptFileError, match=reason) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_hash_is_that_of_the_bytes(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _rewrite_forever(path: Path) -> None:
    number = 0
    while True:
        write_atomic(path, str(number % 10) * 200_000)
        number += 1


def test_a_reader_sees_one_whole_version_however_the_writer_is_killed(tmp_path: Path):
    path = tmp_path / "whole"
    for kill in range(8):
        writer = multiprocessing.get_context("forkserver").Process(target=_rewrite_forever, args=(path,))
        writer.start()
        while not path.exists():
            time.sleep(0.001)
        for _ in range(3 + kill):
            text = path.read_text()
            assert len(text) == 200_000
            assert set(text) == {text[0]}
            time.sleep(0.003)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        text = path.read_text()
        assert len(text) == 200_000
        assert set(text) == {text[0]}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EIO, "the disk reports an input/output error"),
        (errno.EFBIG, "the file would be larger than this process may write"),
    ],
)
def test_an_error_of_the_disk_becomes_one_line_that_names_the_path(code: int, words: str):
    with pytest.raises(StorageError) as caught, storage_errors(Path("/data/run")):
        raise OSError(code, os.strerror(code))
    assert str(caught.value) == f"Cannot write /data/run: {words}."


def test_an_error_that_is_not_the_disks_passes_unchanged():
    with pytest.raises(BlockingIOError), storage_errors(Path("/data/run")):
        raise OSError(errno.EAGAIN, "busy")


def test_writing_below_a_file_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a part of the path is a file, not a folder"):
        write_atomic(tmp_path / "file" / "inner", "x")


def test_writing_into_a_missing_folder_says_so(tmp_path: Path):
    with pytest.raises(StorageError, match="its folder does not exist"):
        write_atomic(tmp_path / "missing" / "inner", "x")


def test_the_file_system_is_that_of_the_longest_mount(tmp_path: Path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/x /mnt/my\\040share nfs4 rw 0 0\ntmpfs /mnt/my\\040share/fast tmpfs rw 0 0\n"
    )
    assert file_system(Path("/home/user"), mounts) == "ext4"
    assert file_system(Path("/mnt/my share/runs"), mounts) == "nfs4"
    assert file_system(Path("/mnt/my share/fast/runs"), mounts) == "tmpfs"
    assert file_system(Path("/mnt/my share 2"), mounts) == "ext4"


def test_the_file_system_is_unknown_where_the_system_does_not_say(tmp_path: Path):
    assert file_system(tmp_path, tmp_path / "none") is None


def test_a_network_drive_is_refused_with_the_reason(tmp_path: Path):
    mounts = tmp_path / "mounts"
    mounts.write_text("server:/x / nfs4 rw 0 0\n")
    with pytest.raises(StorageError, match=r"network file system \(nfs4\).*locks.*Choose a folder on a local disk"):
        refuse_network_drive(tmp_path, mounts=mounts)
