"""Any server that speaks OpenAI's language: OpenAI, Gemini, vLLM, Ollama, llama.cpp."""

import os
import time
from collections.abc import Callable, Mapping

from chiasma.core.rng import numpy_rng
from chiasma.search.generators.exchange import Exchange, Fault, Reply, key_of
from chiasma.search.generators.generator import Answer, Generator, Request, UnansweredError
from chiasma.search.generators.settings import LanguageModel
from chiasma.search.generators.store import AnswerStore


class OpenAIGenerator(Generator):
    """Asks a server, again where that can help, within a time and a sum of money.

    The wait between attempts doubles, with a random part that follows from the request's seed; the time of the whole
    request, attempts and waits together, is bounded. Before each attempt its greatest possible cost is added to what
    was spent, and where that could exceed the limit it is not sent.

    Args:
        settings: Which server and model, and how they are asked.
        store: Where each call is recorded before and after, with what it cost.
        cap: Most dollars that may be spent, all that the store knows of included; None for no limit.
        environment: Where the key is found.
        sleep: Waits so many seconds.

    Raises:
        ConfigError: The key or the name of the model is missing, or there is a limit but a price is not known.
    """

    def __init__(
        self,
        settings: LanguageModel,
        store: AnswerStore,
        *,
        cap: float | None = None,
        environment: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        settings.check_cap(cap)
        self.settings = settings
        self.store = store
        self.cap = cap
        self._sleep = sleep
        self._exchange = Exchange(settings, key_of(settings, dict(os.environ if environment is None else environment)))

    def answer(self, request: Request) -> Answer:
        """Return the answer, which the store already holds.

        Raises:
            UnansweredError: The server is at fault in each attempt, refuses, or the money does not suffice.
        """
        name = self.store.add_request(request)
        started = time.monotonic()
        fault: Fault | None = None
        for attempt in range(self.settings.attempts):
            self._check_cap(request)
            left = self.settings.deadline_seconds - (time.monotonic() - started)
            found = self._attempt(request, name, seconds=min(self.settings.timeout_seconds, left), started=started)
            if isinstance(found, Answer):
                return found
            fault = found
            wait = self._wait(request, attempt, fault)
            over = time.monotonic() - started + wait >= self.settings.deadline_seconds
            if not fault.again or over or attempt + 1 == self.settings.attempts:
                break
            self._sleep(wait)
        assert fault is not None, "there is at least one attempt"
        raise UnansweredError(
            self._exchange.masked(f"{request.model}: {fault.words}."), reason=fault.reason, for_good=fault.for_good
        )

    def _attempt(self, request: Request, name: str, *, seconds: float, started: float) -> Answer | Fault:
        """Call once; the call and its end are on disk before this returns."""
        most = self.settings.prices.most(request)
        number = self.store.send(name, most)
        found = self._exchange.call(request, seconds=seconds)
        if isinstance(found, Fault):
            self.store.settle(number, found.reason, cost=most if found.charged else 0.0)
            return found
        answer = self._answer(request, found, seconds=time.monotonic() - started)
        self.store.settle(number, "answered", cost=answer.cost, answer=answer)
        return answer

    def _answer(self, request: Request, reply: Reply, *, seconds: float) -> Answer:
        """Return a reply with what it cost; where the server does not say what it used, as much as it can have."""
        read = request.most_tokens if reply.prompt_tokens is None else reply.prompt_tokens
        written = request.max_tokens if reply.answer_tokens is None else reply.answer_tokens
        return Answer(
            text=reply.text,
            prompt_tokens=read,
            answer_tokens=written,
            cost=self.settings.prices.of(read, written),
            seconds=seconds,
            finish=reply.finish,
            refusal=reply.refusal,
        )

    def _check_cap(self, request: Request) -> None:
        if self.cap is None:
            return
        spent, most = self.store.spent, self.settings.prices.most(request)
        if spent + most > self.cap:
            raise UnansweredError(
                f"{request.model}: not asked, since ${spent:.4f} of ${self.cap:g} are spent and the answer could cost "
                f"${most:.4f}.",
                reason="capped",
            )

    def _wait(self, request: Request, attempt: int, fault: Fault) -> float:
        """Return the seconds until the next attempt: what the server asks for, or twice as long as the last time."""
        if fault.wait_seconds is not None:
            return fault.wait_seconds
        longest = min(self.settings.patience_seconds, self.settings.backoff_seconds * 2**attempt)
        return longest * (0.5 + 0.5 * float(numpy_rng(request.seed, "backoff", attempt).random()))
