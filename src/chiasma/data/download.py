"""One file from the network: resumed where it was cut off, kept only if it is what it should be."""

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasma.core.errors import DataError
from chiasma.core.files import storage_errors, write_json

ATTEMPTS = 5
"""Attempts without a single new byte after which a download is given up."""

TIMEOUT_SECONDS = 30.0
_CHUNK = 2**18
_ASKS = {"User-Agent": "chiasma", "Accept-Encoding": "identity"}
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_CUT = (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        checksum: ``md5:...`` or ``sha256:...`` that it must have; None where nobody has published one.
        leaves: Of an archive, the folder that is there once it is extracted.
    """

    url: str
    checksum: str | None = None
    leaves: str = ""

    @property
    def name(self) -> str:
        """Return the file's own name."""
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(self.url).path)).name


class DownloadError(DataError):
    """A file that could not be fetched, and what to do instead."""


def download(
    remote: Remote,
    path: Path,
    *,
    progress: Callable[[str], None],
    wait_seconds: float = 1.0,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> None:
    """Fetch a file to ``path``; what an earlier attempt left in ``path.part`` is continued.

    Args:
        remote: What is fetched.
        path: Where it goes; its folder must be there.
        progress: Told how far it is; what it raises ends the download, which can be continued later.
        wait_seconds: Before the second attempt; doubled before each further one.
        timeout_seconds: For the server to say something.

    Raises:
        DownloadError: There is no network, the server refuses, or the file is not the one that it should be.
        StorageError: The disk is full or may not be written to.
    """
    partial = _Partial(remote, path)
    failures = 0
    while True:
        before = partial.size
        try:
            with storage_errors(path):
                _continue(partial, progress, timeout_seconds)
            break
        except (urllib.error.HTTPError, urllib.error.URLError, http.client.HTTPException, *_CUT) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in _TRY_AGAIN:
                raise _refusal(error, remote, path) from None
            failures = 0 if partial.size > before else failures + 1
            if failures >= ATTEMPTS or _is_no_network(error):
                raise _unreachable(error, remote, path) from None
            progress(f"{remote.name}: {_reason(error)}; trying again")
            time.sleep(wait_seconds * 2**failures)
    _check(partial)
    partial.finish()


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """Return a file's checksum with the name of its algorithm before it."""
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


class _Partial:
    """A file that is on its way, with what the server said of it."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self.remote = remote
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        if self.note.get("url") != remote.url:
            self.restart()

    @property
    def size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    @property
    def note(self) -> Mapping[str, Any]:
        try:
            return json.loads(self._note.read_text())
        except (OSError, ValueError):
            return {}

    def restart(self) -> None:
        self.part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def remember(self, headers: Any, total: int | None) -> None:
        validator = headers.get("ETag") or headers.get("Last-Modified")
        # A weak validator does not promise the same bytes.
        strong = validator if validator and not validator.startswith("W/") else None
        write_json(self._note, {"url": self.remote.url, "validator": strong, "total": total})

    def finish(self) -> None:
        with open(self.part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.part, self.path)
        self._note.unlink(missing_ok=True)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to web servers alone, and never from an encrypted connection to one that is not."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = (urllib.parse.urlsplit(url).scheme for url in (req.full_url, newurl))
        if after not in ("http", "https") or (before == "https" and after != "https"):
            raise DownloadError(f"{req.full_url} redirects to {newurl}, which is not as safe; it was not followed.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _continue(partial: _Partial, progress: Callable[[str], None], timeout: float) -> None:
    """Fetch what is missing, from the beginning where the server has another file by now."""
    start = partial.size
    validator, total = partial.note.get("validator"), partial.note.get("total")
    if start and total is not None and start == total:
        return
    if start and validator is None:
        partial.restart()
        start = 0
    resumed = {"Range": f"bytes={start}-", "If-Range": str(validator)} if start else {}
    request = urllib.request.Request(partial.remote.url, headers=_ASKS | resumed)
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        partial.restart()
        response = opener.open(urllib.request.Request(partial.remote.url, headers=_ASKS), timeout=timeout)
    with response:
        continued = response.status == 206 and _begins_at(response.headers.get("Content-Range")) == partial.size
        if not continued:
            partial.restart()
        length = response.headers.get("Content-Length")
        total = None if length is None else partial.size + int(length)
        _check_space(partial, total)
        partial.remember(response.headers, total)
        _receive(response, partial, total, progress)


def _receive(response: Any, partial: _Partial, total: int | None, progress: Callable[[str], None]) -> None:
    begun, first = time.monotonic(), partial.size
    done = first
    with open(partial.part, "ab") as file:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            speed = (done - first) / max(time.monotonic() - begun, 1e-3)
            left = "" if total is None else f" of {_megabytes(total)}, {max(0.0, (total - done) / speed):.0f} s left"
            progress(f"{partial.remote.name}: {_megabytes(done)}{left}")
    if total is not None and done < total:
        raise ConnectionResetError("the connection was cut")


def _check_space(partial: _Partial, total: int | None) -> None:
    free = shutil.disk_usage(partial.path.parent).free
    if total is not None and total - partial.size > free:
        raise DownloadError(
            f"{partial.remote.name} needs {_megabytes(total - partial.size)}, but {partial.path.parent} has "
            f"{_megabytes(free)} free."
        )


def _check(partial: _Partial) -> None:
    wanted = partial.remote.checksum
    if wanted is None:
        return
    found = digest_of(partial.part, wanted.partition(":")[0])
    if found != wanted:
        partial.restart()
        raise DownloadError(
            f"{partial.remote.url} is not the file that was published: its checksum must be {wanted}, but is {found}. "
            "It was deleted; try again, or get it from its official source."
        )


def _begins_at(header: str | None) -> int | None:
    place = (header or "").removeprefix("bytes ").partition("-")[0]
    return int(place) if place.isdigit() else None


def _is_no_network(error: Exception) -> bool:
    """Return whether there is no way to the server at all, so that waiting a second will not help."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, OSError) and not isinstance(reason, TimeoutError | ConnectionResetError | BrokenPipeError)


def _refusal(error: urllib.error.HTTPError, remote: Remote, path: Path) -> DownloadError:
    why = {
        401: "asks for a login",
        403: "does not give it",
        404: "has no such file any more",
        410: "has no such file any more",
        451: "may not give it for legal reasons",
    }.get(error.code, f"answered {error.code} {error.reason}")
    if error.code in range(300, 400):
        why = "redirects to a place to which none is followed"
    return DownloadError(
        f"{remote.url}: the server {why}. docs/datasets.md says where else it can be had; put it at {path} and run "
        "this again."
    )


def _unreachable(error: Exception, remote: Remote, path: Path) -> DownloadError:
    part = path.with_name(f"{path.name}.part")
    kept = f" What arrived is kept in {part.name} and continued next time." if part.is_file() else ""
    return DownloadError(
        f"{remote.url} cannot be fetched: {_reason(error)}.{kept} Where there is a network: "
        f"curl -L -C - -o {path.name} {remote.url}; put it at {path} and run this again."
    )


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code}"
    if isinstance(inner, TimeoutError):
        return "the server does not answer"
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return (str(text).splitlines() or [type(inner).__name__])[0].rstrip(".").lower()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
