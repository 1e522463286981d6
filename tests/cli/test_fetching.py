"""``chiasma data fetch`` against a server on this machine."""

import io
import tarfile

import pytest

from chiasma.data.download import Remote
from chiasma.data.fetch import PUBLIC, Public
from tests.cli.conftest import invoke
from tests.data.file_server import serving


def reviews() -> bytes:
    """Return IMDB's official folders as an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for split, count in (("train", 30), ("test", 10)):
            for number in range(count):
                for label, rating in (("neg", 2), ("pos", 9)):
                    data = f"A {label} film numbered {number} of {split}.".encode()
                    info = tarfile.TarInfo(f"aclImdb/{split}/{label}/{number}_{rating}.txt")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_dataset_is_fetched_checked_and_read(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        server.files["/aclImdb_v1.tar.gz"] = reviews()
        files = (Remote(f"{server.url}/aclImdb_v1.tar.gz", leaves="aclImdb"),)
        monkeypatch.setitem(PUBLIC, "imdb", Public("IMDB", "Cite it.", files, data="aclImdb"))
        result = invoke("data", "fetch", "imdb", "--to", str(tmp_path / "imdb"), "--accept-terms")
    assert result.exit_code == 0, result.output
    assert "Terms: Cite it." in result.stdout
    assert f"Look at it: chiasma data check {tmp_path / 'imdb' / 'aclImdb'}" in result.stdout
    checked = invoke("data", "check", str(tmp_path / "imdb" / "aclImdb"))
    assert checked.exit_code == 0
    assert "80 rows read, 80 kept" in checked.stdout


def test_nothing_is_fetched_before_the_terms_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("data", "fetch", "hateful_memes")
    assert result.exit_code == 2
    assert "Terms: Meta's Hateful Memes licence: research only" in result.stdout
    assert "read the terms, then say chiasma data fetch hateful_memes --accept-terms." in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"), [(("cifar",), "Did you mean 'cifar10'"), (("coco", "--images", "x"), "brings its")]
)
def test_a_wrong_name_or_option_is_one_line(tmp_path, words, said):
    result = invoke("data", "fetch", *words, "--to", str(tmp_path), "--accept-terms")
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
