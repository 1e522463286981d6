"""A generator that never asks twice for what was answered, and that stops asking one who does not answer."""

from collections.abc import Callable

from chiasma.search.generators.generator import Answer, Generator, Request, UnansweredError
from chiasma.search.generators.store import AnswerStore, Result

# These say nothing about whether the model answers.
NOT_ITS_FAULT = frozenset({"capped", "closed", "not_recorded"})


class Breaker:
    """Stops asking a model that fails again and again, and tries it once in a while.

    It counts requests and not seconds, and learns the same from results that are read back, so that a resumed search
    decides alike. A wrong key therefore closes it for the whole search, however often that is resumed.

    Args:
        failures: Requests in a row without an answer after which it opens.
        pause: Requests that are then not sent before one is tried; twice as many each time it fails again.
        longest_pause: No pause is longer.
    """

    def __init__(self, *, failures: int = 3, pause: int = 8, longest_pause: int = 64) -> None:
        self.failures = failures
        self.pause = pause
        self.longest_pause = longest_pause
        self.broken: str | None = None
        self._failed = 0
        self._left = 0

    @property
    def is_open(self) -> bool:
        """Return whether the next request is not to be sent."""
        return self.broken is not None or self._left > 0

    def note(self, result: Result) -> None:
        """Learn what a request came to, now or before the search was resumed."""
        if isinstance(result, Answer):
            self._failed, self._left = 0, 0
            return
        if result.reason == "closed":
            self._left = max(0, self._left - 1)
        if result.reason in NOT_ITS_FAULT:
            return
        if result.for_good:
            self.broken = str(result)
        self._failed += 1
        if self._failed >= self.failures:
            self._left = min(self.longest_pause, self.pause * 2 ** (self._failed - self.failures))


class StoredGenerator(Generator):
    """Answers from the store where it can; else asks, and stores whatever comes of it before it is used.

    Args:
        generator: Whoever is asked.
        store: Where requests and answers lie.
        breaker: When to stop asking.
        tell: Is told why nobody is asked any more, once in every sitting: also of what was read back.
    """

    def __init__(
        self,
        generator: Generator,
        store: AnswerStore,
        *,
        breaker: Breaker | None = None,
        tell: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.generator = generator
        self.store = store
        self.breaker = breaker or Breaker()
        self._tell = tell

    @property
    def broken(self) -> str | None:
        """Return why nobody is asked any more, in one line; None as long as somebody may be."""
        return self.breaker.broken

    def answer(self, request: Request) -> Answer:
        """Return the answer, from the store or from whoever is asked.

        Raises:
            UnansweredError: There is none; the next time the same request is made it fails in the same words.
        """
        name = self.store.add_request(request)
        found = self.store.result(name)
        if found is None:
            found = self._closed() or self._ask(request)
            self.store.add_result(name, found)
            # What is used is what was stored, whatever was masked in it.
            found = self.store.result(name)
            assert found is not None
        known = self.broken
        self.breaker.note(found)
        if known is None and self.broken is not None:
            self._tell(self.broken)
        if isinstance(found, UnansweredError):
            raise found
        return found

    def _ask(self, request: Request) -> Result:
        try:
            return self.generator.answer(request)
        except UnansweredError as error:
            return error

    def _closed(self) -> UnansweredError | None:
        if not self.breaker.is_open:
            return None
        why = self.breaker.broken or "the last requests were not answered"
        return UnansweredError(f"Not asked: {why}", reason="closed")
