"""A server that speaks OpenAI's language and misbehaves in every way that is known, on this machine alone."""

import contextlib
import email.utils
import json
import ssl
import threading
import time
from collections.abc import Callable, Generator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SOURCE = """import torch
from torch import nn


class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.image = nn.Linear(image_dim, dim)
        self.text = nn.Linear(text_dim, dim)

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        image = (image_tokens * image_mask[..., None]).sum(1)
        text = (text_tokens * text_mask[..., None]).sum(1)
        return self.image(image) * self.text(text)
"""
DOCSTRING = 'class FusionModule:\n    """Such as\n\n```python\nfused = 1\n```\n    """\n\n    dim = 3\n'

Act = Callable[["Handler"], None]


def completion(content: Any = f"```python\n{SOURCE}```", **changes: Any) -> bytes:
    """Return the body of an answer."""
    message = {"role": "assistant", "content": content, **changes.pop("message", {})}
    choice = {"index": 0, "finish_reason": "stop", "message": message, **changes.pop("choice", {})}
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    body = {"id": "a", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps({**body, **changes}).encode()


def status(number: int, *, words: str = "something", headers: Sequence[tuple[str, str]] = (), **error: Any) -> Act:
    """Return what answers with an error."""
    body = json.dumps({"error": {"message": words, "type": "t", "param": None, "code": None, **error}}).encode()
    return lambda handler: handler.reply(number, body, headers=headers)


def says(body: bytes, *, kind: str = "application/json") -> Act:
    """Return what answers with a success that holds these bytes."""
    return lambda handler: handler.reply(200, body, kind=kind)


def hang(handler: "Handler") -> None:
    """Send nothing, not even headers."""
    handler.server.released.wait()


def hang_in_body(handler: "Handler") -> None:
    """Send headers and the beginning of the body."""
    handler.begin(10_000)
    handler.wfile.write(completion()[:50])
    handler.wfile.flush()
    handler.server.released.wait()


def drip(handler: "Handler") -> None:
    """Send a byte now and then, so that no single wait is long."""
    handler.begin(10_000)
    with contextlib.suppress(OSError):
        while not handler.server.released.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()


def drip_headers(handler: "Handler") -> None:
    """Send the headers a byte at a time."""
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not handler.server.released.wait(0.02):
            handler.wfile.write(b"a")
            handler.wfile.flush()


def cut_off(handler: "Handler") -> None:
    """Promise more than is sent, and hang up."""
    handler.begin(10_000)
    handler.wfile.write(completion()[:50])
    handler.close_connection = True


def echo_key(handler: "Handler") -> None:
    """Answer with an error that repeats the key."""
    key = handler.headers.get("Authorization", "")
    status(400, words=f"Incorrect header {key} provided")(handler)


def echo_key_in_answer(handler: "Handler") -> None:
    """Answer with words that repeat the key."""
    handler.reply(200, completion(f"Your key is {handler.headers.get('Authorization', '')}."))


def later(handler: "Handler") -> None:
    """Ask to come back at a date."""
    date = email.utils.formatdate(time.time() + 1, usegmt=True)
    status(429, headers=[("Retry-After", date)])(handler)


def redirect(handler: "Handler") -> None:
    """Send to another host."""
    handler.reply(302, b"", headers=[("Location", f"{handler.server.elsewhere}/v1/chat/completions")])


# Each is what the server does to one call. What is not here needs no server: refused, name not found, TLS.
CASES: dict[str, Act] = {
    "hang before headers": hang,
    "hang in the body": hang_in_body,
    "slow drip": drip,
    "slow headers": drip_headers,
    "cut off": cut_off,
    "400": status(400),
    "401": status(401, words="Incorrect API key"),
    "403": status(403),
    "404": status(404, words="no such model"),
    "408": status(408),
    "409": status(409),
    "413": status(413),
    "422": status(422),
    "429": status(429),
    "429 Retry-After seconds": status(429, headers=[("Retry-After", "0.05")]),
    "429 Retry-After date": later,
    "429 Retry-After an hour": status(429, headers=[("Retry-After", "3600")]),
    "429 nonsense": status(429, headers=[("Retry-After", "soon")]),
    "429 no credit": status(429, code="insufficient_quota"),
    "500": status(500),
    "502": lambda handler: handler.reply(502, b"<html>Bad gateway</html>", kind="text/html"),
    "503": status(503),
    "529": status(529),
    "empty body": says(b""),
    "HTML": says(b"<html><body>Welcome</body></html>", kind="text/html"),
    "invalid JSON": says(completion()[:-10]),
    "not an object": says(b"[]"),
    "deep JSON": says(b"[" * 100_000),
    "choices []": says(completion(choices=[])),
    "no choices": says(b"{}"),
    "content null": says(completion(None)),
    "no content": says(completion(choice={"message": {"role": "assistant"}})),
    "no message": says(completion(choice={"message": None})),
    "content in parts": says(completion([{"type": "text", "text": f"```python\n{SOURCE}```"}])),
    "no usage": says(completion(usage=None)),
    "nonsense usage": says(completion(usage={"prompt_tokens": -5, "completion_tokens": "many"})),
    "finish_reason length": says(completion(choice={"finish_reason": "length"})),
    "refusal": says(completion(None, message={"refusal": "I cannot help with that."})),
    "refusal in words": says(completion("I'm sorry, but I can't help with that.")),
    "two code blocks": says(completion(f"```python\nx = 1\n```\nor\n```python\n{SOURCE}```")),
    "no code block": says(completion("Attention would be good.")),
    "fences in docstrings": says(completion(f"```python\n{DOCSTRING}```\nDone.")),
    "5 MB": says(completion("a" * 5_000_000)),
    "half a character": says(completion().replace(b"import torch", b"import \\ud800 torch", 1)),
    "non-UTF-8": says(completion().replace(b"import torch", b"import \xff\xfe torch", 1)),
    "redirect": redirect,
    "key echoed in an error": echo_key,
    "key echoed in an answer": echo_key_in_answer,
    "good": says(completion()),
}


class Handler(BaseHTTPRequestHandler):
    """Does to each call what the server's script says."""

    server: "FaultServer"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the request, note it, and misbehave."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        act = self.server.note(body, {name.lower(): value for name, value in self.headers.items()})
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            act(self)

    def reply(
        self, code: int, body: bytes, *, kind: str = "application/json", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send a whole answer."""
        self.begin(len(body), code=code, kind=kind, headers=headers)
        self.wfile.write(body)

    def begin(
        self, length: int, *, code: int = 200, kind: str = "application/json", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send headers that promise so many bytes."""
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class FaultServer(ThreadingHTTPServer):
    """Plays a script: one act a call, the last one again and again.

    Attributes:
        calls: Bodies of the calls.
        headers: Their headers.
        elsewhere: Where redirects lead.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, script: Sequence[Act] = (), *, choose: Callable[[dict[str, Any]], Act] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = list(script)
        self.choose = choose
        self.calls: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        self.elsewhere = "http://127.0.0.1:9"
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Return the address for the settings."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def note(self, body: dict[str, Any], headers: dict[str, str]) -> Act:
        """Note a call and return what is done to it."""
        with self._lock:
            self.calls.append(body)
            self.headers.append(headers)
            if self.choose is not None:
                return self.choose(body)
            return self.script[min(len(self.calls), len(self.script)) - 1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that give up are what is tested."""


@contextlib.contextmanager
def serving(
    script: Sequence[Act] = (),
    *,
    choose: Callable[[dict[str, Any]], Act] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Generator[FaultServer]:
    """Serve while the block runs."""
    server = FaultServer(script, choose=choose)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
