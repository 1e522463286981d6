"""One call of an OpenAI-compatible server: within a time, without following anybody elsewhere, typed whatever comes."""

import asyncio
import email.utils
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from chiasma.core.errors import ConfigError
from chiasma.core.spec import strict_json
from chiasma.search.generators.generator import Reason, Request
from chiasma.search.generators.settings import OPENAI_VARIABLE, LanguageModel
from chiasma.store.secrets import MASK, SHORTEST_SECRET

try:
    import httpx2
    import openai
except ModuleNotFoundError as missing:
    raise ConfigError(
        f'Asking a language model over the network needs {missing.name}: pip install "chiasma[llm]".'
    ) from None

LONGEST_BODY = 4_000_000
GRACE_SECONDS = 1.0
# So that a server that was never reached can be told from one that does not answer.
CONNECT_SHARE = 0.8
_TRANSIENT = frozenset({408, 409, 425, 429})


@dataclass(frozen=True)
class Reply:
    """What the server said, as far as it can be used.

    Attributes:
        prompt_tokens: What it says it read; None where it does not say.
        answer_tokens: What it says it wrote; None where it does not say.
    """

    text: str
    finish: str = "stop"
    refusal: str | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


@dataclass(frozen=True)
class Fault:
    """Why a call brought nothing.

    Attributes:
        reason: From a closed list.
        words: One line, without secrets.
        again: Another attempt may help.
        for_good: No request will ever be answered as things stand.
        charged: The call may have to be paid for: the server had the request, and did not say that it failed.
        wait_seconds: How long the server asks to wait.
    """

    reason: Reason
    words: str
    again: bool = False
    for_good: bool = False
    charged: bool = False
    wait_seconds: float | None = None


class Exchange:
    """Calls one server.

    Args:
        settings: Which server and model, and how they are asked.
        key: Sent to that server and nowhere else; a redirect is not followed.
    """

    def __init__(self, settings: LanguageModel, key: str) -> None:
        self.settings = settings
        self.model = settings.named_model()
        self._key = key

    def call(self, request: Request, *, seconds: float) -> Reply | Fault:
        """Return what came within so many seconds, whatever the server does with its connection."""
        try:
            body = _within(self._body(request, seconds), seconds)
        except TimeoutError:
            return _timeout(seconds)
        except openai.APIStatusError as error:
            return self._status_fault(error)
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            return _connection_fault(error, seconds=seconds)
        return body if isinstance(body, Fault) else self._read(body)

    def masked(self, text: str) -> str:
        """Return text in which the key reads ``***``; before it is cut, since half a key is not found."""
        return text.replace(self._key, MASK) if len(self._key) >= SHORTEST_SECRET else text

    async def _body(self, request: Request, seconds: float) -> bytes | Fault:
        """Return the body of the answer; a call that is cancelled closes its connection."""
        content = bytearray()
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False)
        client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.settings.base_url,
            max_retries=0,
            timeout=httpx2.Timeout(seconds, connect=CONNECT_SHARE * seconds),
            http_client=http,
        )
        create: Any = client.chat.completions.with_streaming_response.create
        async with client, create(**self._parameters(request)) as response:
            async for chunk in response.iter_bytes():
                content += chunk
                if len(content) > LONGEST_BODY:
                    words = f"the answer is longer than {LONGEST_BODY:,} bytes"
                    return Fault("too_long", words, charged=True)
        return bytes(content)

    def _parameters(self, request: Request) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "model": self.model,
            "messages": [message.to_dict() for message in request.messages],
            "temperature": request.temperature,
            self.settings.limit: request.max_tokens,
        }
        if self.settings.send_seed:
            # Servers keep seeds in 32 bits.
            parameters["seed"] = request.seed % 2**31
        if request.json_only:
            parameters["response_format"] = {"type": "json_object"}
        return parameters

    def _read(self, body: bytes) -> Reply | Fault:
        """Return what is in the body of an answer that the server calls a success."""
        try:
            value = strict_json(body.decode())
        except UnicodeDecodeError:
            return self._unreadable("it is not UTF-8")
        except ValueError as error:
            return self._unreadable("it is empty" if not body.strip() else f"it is not JSON: {error}", body)
        if not isinstance(value, dict):
            return self._unreadable("it is not an object", body)
        return self._reply(cast("dict[str, Any]", value))

    def _reply(self, value: dict[str, Any]) -> Reply:
        """Return an answer without words where the server sent none: it was asked and paid for."""
        choices = value.get("choices")
        first = cast("Any", choices[0]) if isinstance(choices, list) and choices else None
        choice = _object(first)
        message = _object(choice.get("message"))
        usage = _object(value.get("usage"))
        finish, refusal = choice.get("finish_reason"), message.get("refusal")
        return Reply(
            text=self.masked(_words(message.get("content"))),
            finish=_line(self.masked(finish)) if isinstance(finish, str) else "stop",
            refusal=self.masked(_clean(refusal)) if isinstance(refusal, str) and refusal else None,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            answer_tokens=_count(usage.get("completion_tokens")),
        )

    def _unreadable(self, why: str, body: bytes = b"") -> Fault:
        shown = _line(self.masked(body.decode(errors="replace")))
        words = f"the answer cannot be read: {why}" + (f' (it begins "{shown}")' if shown else "")
        return Fault("unreadable", self.masked(words), again=True, charged=True)

    def _status_fault(self, error: openai.APIStatusError) -> Fault:
        status = error.status_code
        said = _line(self.masked(_server_words(error)))
        words = f"the server answered {status}" + (f' ("{said}")' if said else "")
        where = self.settings.base_url or "OpenAI"
        if 300 <= status < 400:
            return Fault("redirect", f"{words}: it sends to another address, which is not followed", for_good=True)
        if status in (401, 403):
            named = self.settings.variable or OPENAI_VARIABLE
            bare = self.settings.variable is None and self.settings.base_url is not None
            remedy = "name the variable of its key: --set llm.variable=NAME" if bare else f"check the key in ${named}"
            return Fault("denied", f"{where} refuses the key: {words}; {remedy}", for_good=True)
        if status == 404:
            return Fault("denied", f"{where} does not know model {self.model!r}: {words}", for_good=True)
        if error.code == "insufficient_quota":
            return Fault("denied", f"the account has no credit left: {words}", for_good=True)
        wait = _wait_seconds(error.response.headers.get("retry-after"))
        if status in _TRANSIENT:
            return Fault("overloaded", words, again=True, wait_seconds=wait)
        if status >= 500:
            return Fault("server_error", words, again=True, wait_seconds=wait)
        return Fault("refused_request", words)


def key_of(settings: LanguageModel, environment: dict[str, str]) -> str:
    """Return the key that the environment holds; empty where a server of its own address needs none.

    Raises:
        ConfigError: There is none, and OpenAI's own server needs one; or it holds what no header can. Names the
            variable.
    """
    if settings.variable is None and settings.base_url is not None:
        return ""
    variable = settings.variable or OPENAI_VARIABLE
    key = environment.get(variable, "").strip()
    if not key and settings.base_url is None:
        raise ConfigError(
            f"llm.variable: OpenAI needs a key, but ${variable} is not set. Set it, or name a server of your "
            "own: --set llm.base_url=http://localhost:11434/v1."
        )
    # Whoever cannot send a header quotes it, in a form that is not found again.
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"llm.variable: a key is printable ASCII on one line, but what ${variable} holds is not. Set it again."
        )
    return key


def _within(work: Coroutine[Any, Any, bytes | Fault], seconds: float) -> bytes | Fault:
    """Run asynchronous work on a thread and an event loop of its own, and give up on time whatever it does.

    The caller may already run an event loop, as a notebook does; and a name server that does not answer cannot be
    cancelled, only left.
    """
    future: Future[bytes | Fault] = Future()

    async def timed() -> bytes | Fault:
        return await asyncio.wait_for(work, seconds)

    def run() -> None:
        try:
            result = asyncio.run(timed())
        except BaseException as error:
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            future.set_result(result)

    threading.Thread(target=run, name="chiasma-llm", daemon=True).start()
    return future.result(timeout=seconds + GRACE_SECONDS)


def _timeout(seconds: float) -> Fault:
    return Fault("timeout", f"no answer within {seconds:.3g} s", again=True, charged=True)


def _connection_fault(error: openai.APIConnectionError | httpx2.HTTPError, *, seconds: float) -> Fault:
    """Tell a server that was never reached, which charges nothing, from one that broke off."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    certificate = next((each for each in causes if isinstance(each, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        words = f"the server's certificate is not trusted: {_line(certificate.verify_message)}"
        return Fault("connection", words, for_good=True)
    unreached = any(isinstance(each, httpx2.ConnectError | httpx2.ConnectTimeout) for each in causes)
    if not unreached and any(isinstance(each, httpx2.TimeoutException) for each in causes):
        return _timeout(seconds)
    told = _line(str(causes[-1])) or type(causes[-1]).__name__
    words = f"the server cannot be reached: {told}" if unreached else f"the connection broke off: {told}"
    return Fault("connection", words, again=True, charged=not unreached)


def _wait_seconds(value: str | None) -> float | None:
    """Return what a ``Retry-After`` header asks for, in seconds or as a date; None where it cannot be read."""
    if value is None:
        return None
    try:
        return max(0.0, min(float(value), 86_400.0))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    # A date without a zone is read as the standard's own, Greenwich.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - datetime.now(UTC).timestamp())


def _server_words(error: openai.APIStatusError) -> str:
    """Return what the server says of its error; nothing of the page that some proxy sent instead."""
    body = _object(error.body)
    message = body.get("message")
    return message if isinstance(message, str) else ""


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _words(content: Any) -> str:
    """Return the text of a message, which some servers send in parts."""
    if isinstance(content, str):
        return _clean(content)
    parts = [_object(part).get("text") for part in cast("list[Any]", content)] if isinstance(content, list) else []
    return _clean("".join(part for part in parts if isinstance(part, str)))


def _clean(text: str) -> str:
    """Return text that can be stored: halves of characters, which JSON allows, become replacement characters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _line(text: str, *, longest: int = 200) -> str:
    """Return the first line, capped and printable."""
    lines = _clean(text).strip().splitlines()
    return "".join(each if each.isprintable() else " " for each in lines[0])[:longest] if lines else ""
