"""Downloads from a server that misbehaves, on this machine."""

import hashlib
import io
import socket
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chiasma.core.errors import ConfigError, DataError
from chiasma.data.download import DownloadError, Remote, download
from chiasma.data.fetch import PUBLIC, Public, fetch, public
from chiasma.data.prepare import silent
from tests.data.file_server import Server, serving

DATA = bytes(range(256)) * 4000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as told:
        told.files["/data.bin"] = DATA
        yield told


def get(server: Server, folder: Path, name: str = "data.bin", **settings) -> bytes:
    remote = Remote(f"{server.url}/{name}", settings.pop("checksum", None))
    download(remote, folder / name, progress=settings.pop("progress", silent), wait_seconds=0.0, **settings)
    return (folder / name).read_bytes()


def test_a_file_arrives_whole_and_leaves_nothing_else(server, tmp_path):
    lines: list[str] = []
    assert get(server, tmp_path, progress=lines.append) == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]
    assert lines[-1] == "data.bin: 1.0 MB of 1.0 MB, 0 s left"


def test_a_cut_connection_is_continued_where_it_ended(server, tmp_path):
    server.cut_after = [300_000, 200_000]
    assert get(server, tmp_path) == DATA
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_download_that_was_stopped_is_continued_by_the_next(server, tmp_path):
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, progress=stop)
    kept = (tmp_path / "data.bin.part").stat().st_size
    assert 0 < kept < len(DATA)
    assert get(server, tmp_path) == DATA
    assert server.ranges[1] == f"bytes={kept}-"


@pytest.mark.parametrize("change", ["another version", "no ranges", "no version"])
def test_what_cannot_be_continued_begins_anew(server, tmp_path, change):
    server.cut_after = [300_000]
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if "trying again" in line and change == "another version":
            server.files["/data.bin"], server.etag = DATA[::-1], '"two"'

    server.obeys_ranges = change != "no ranges"
    server.etag = None if change == "no version" else server.etag
    expected = DATA[::-1] if change == "another version" else DATA
    assert get(server, tmp_path, progress=tell) == expected


def test_a_wrong_checksum_is_refused_and_the_file_deleted(server, tmp_path):
    right = f"md5:{hashlib.md5(DATA).hexdigest()}"
    assert get(server, tmp_path, checksum=right) == DATA
    (tmp_path / "data.bin").unlink()
    server.files["/data.bin"] = DATA[:-1] + b"x"
    with pytest.raises(DownloadError, match=f"is not the file that was published: its checksum must be {right}, but"):
        get(server, tmp_path, checksum=right)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_gone_is_one_line_without_a_second_attempt(server, tmp_path):
    with pytest.raises(DownloadError, match=r"gone.bin: the server has no such file any more. docs/datasets.md says"):
        get(server, tmp_path, "gone.bin")
    assert len(server.ranges) == 1


def test_a_server_that_is_busy_is_asked_again(server, tmp_path):
    server.answers = [503, 429]
    assert get(server, tmp_path) == DATA


def test_a_server_that_stays_busy_is_given_up(server, tmp_path):
    server.answers = [503] * 20
    with pytest.raises(DownloadError, match=r"cannot be fetched: the server answered 503. Where there is"):
        get(server, tmp_path)
    assert len(server.ranges) == 5


def test_no_network_is_one_line_with_what_to_do(tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        remote = Remote(f"http://127.0.0.1:{busy.getsockname()[1]}/data.bin")
    with pytest.raises(DownloadError, match=r"connection refused. Where there is a network: curl .* put it at"):
        download(remote, tmp_path / "data.bin", progress=silent)


def test_a_redirect_is_followed_to_web_servers_alone(server, tmp_path):
    server.redirects = {"/moved.bin": "/data.bin", "/secret.bin": "file:///etc/passwd", "/ftp.bin": "ftp://x/y"}
    assert get(server, tmp_path, "moved.bin") == DATA
    for name in ("secret.bin", "ftp.bin"):
        with pytest.raises(DownloadError, match=r"redirects to (.*, which is not as safe|a place to which none)"):
            get(server, tmp_path, name)


def tar_gz(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def small(server: Server) -> Public:
    """Return a dataset of an archive and a plain file."""
    server.files |= {"/all.tar.gz": tar_gz(batches__one=b"1", batches__two=b"2"), "/rows.jsonl": b"{}\n"}
    files = (Remote(f"{server.url}/all.tar.gz", leaves="batches"), Remote(f"{server.url}/rows.jsonl"))
    return Public("Small", "Be kind.", files, data="batches", after="Enjoy.", takes_images=True)


def test_archives_are_extracted_and_nothing_is_fetched_twice(server, small, tmp_path):
    found = fetch(small, tmp_path / "small", progress=silent)
    assert found.data == tmp_path / "small" / "batches"
    assert (found.data / "two").read_bytes() == b"2"
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["batches", "fetched.json", "rows.jsonl"]
    assert "no checksum is published; it is noted (sha256:" in found.words[0]
    assert found.words[-1] == "Enjoy."
    again = fetch(small, tmp_path / "small", progress=silent)
    assert again.words[:2] == ("all.tar.gz: already here", "rows.jsonl: already here")
    assert len(server.ranges) == 2


def test_what_was_noted_at_first_use_is_compared_at_the_second(server, small, tmp_path):
    fetch(small, tmp_path, progress=silent)
    (tmp_path / "rows.jsonl").write_text("changed")
    with pytest.raises(DataError, match=r"rows.jsonl is not the file that came from .* before: its checksum was"):
        fetch(small, tmp_path, progress=silent)
    (tmp_path / "rows.jsonl").unlink()
    server.files["/rows.jsonl"] = b"[]\n"
    with pytest.raises(DataError, match=r"rows.jsonl is not the file that came from .* before"):
        fetch(small, tmp_path, progress=silent)


def test_an_archive_that_was_put_there_by_hand_is_taken(server, small, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "all.tar.gz").write_bytes(server.files.pop("/all.tar.gz"))
    assert (fetch(small, tmp_path, progress=silent).data / "one").read_bytes() == b"1"


def test_images_come_from_an_archive_that_the_user_has(server, small, tmp_path):
    with zipfile.ZipFile(tmp_path / "memes.zip", "w") as archive:
        archive.writestr("data/img/01235.png", "image")
        archive.writestr("data/train.jsonl", "not ours")
    server.files["/memes.zip"] = (tmp_path / "memes.zip").read_bytes()
    for images in (str(tmp_path / "memes.zip"), f"{server.url}/memes.zip"):
        found = fetch(small, tmp_path / images[-12:-4].strip("/"), images=images, progress=silent)
        (image,) = (found.data.parent / "img").iterdir()
        assert (image.name, image.read_bytes()) == ("01235.png", b"image")


def test_a_hostile_archive_of_a_server_is_refused(server, small, tmp_path):
    server.files["/all.tar.gz"] = tar_gz(**{"..__..__owned": b"x"})
    with pytest.raises(DataError, match="leads out of its folder"):
        fetch(small, tmp_path / "small", progress=silent)
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "small" / "fetched.json").exists()


def test_names_are_checked_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'cifar_10' is none of hateful_memes, .* imdb. Did you mean 'cifar10'"):
        public("cifar_10")
    with pytest.raises(ConfigError, match=r"--images: CIFAR-10 .* brings its images, but got x.zip"):
        fetch(PUBLIC["cifar10"], Path("/nonexistent"), images="x.zip", progress=silent)


def test_every_dataset_names_terms_and_safe_files():
    for name, dataset in PUBLIC.items():
        assert dataset.files, name
        assert dataset.terms, name
        assert all(remote.url.startswith(("https://", "http://images.cocodataset.org/")) for remote in dataset.files)
