"""A web server in a thread that cuts connections, redirects and refuses as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What it gives, and what it was asked.

    Attributes:
        files: Content by path.
        cut_after: Bytes after which the next answers end, one each.
        answers: Status codes of the next answers in place of files.
        redirects: Addresses by path.
        etag: Version of the files; None for servers that name none.
        ranges: The ``Range`` of every request, None where it had none.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"one"'
    obeys_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the block ends."""
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            del format, args

        def do_GET(self) -> None:
            told.ranges.append(self.headers.get("Range"))
            if self.path in told.redirects:
                self.send_response(302)
                self.send_header("Location", told.redirects[self.path])
                self.end_headers()
                return
            code = told.answers.pop(0) if told.answers else 200 if self.path in told.files else 404
            if code != 200:
                self.send_response(code)
                self.end_headers()
                return
            _give(self, told)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _give(request: BaseHTTPRequestHandler, told: Server) -> None:
    data, start = told.files[request.path], 0
    asked = request.headers.get("Range")
    if asked and told.obeys_ranges and request.headers.get("If-Range") == told.etag:
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            request.send_response(416)
            request.end_headers()
            return
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    if told.etag is not None:
        request.send_header("ETag", told.etag)
    request.send_header("Content-Length", str(len(data) - start))
    request.end_headers()
    end = start + told.cut_after.pop(0) if told.cut_after else len(data)
    request.wfile.write(data[start:end])
