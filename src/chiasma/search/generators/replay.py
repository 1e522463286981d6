"""Recorded answers, by the hash of what was asked: a search is repeated without asking, or paying, anybody."""

from chiasma.search.generators.generator import Answer, Generator, Request, UnansweredError
from chiasma.search.generators.store import AnswerStore


class ReplayGenerator(Generator):
    """Answers what was answered before, fails where that failed, and does nothing else.

    Args:
        recorded: The store of an earlier search.
    """

    def __init__(self, recorded: AnswerStore) -> None:
        self.recorded = recorded

    def answer(self, request: Request) -> Answer:
        """Return the recorded answer; it costs nothing.

        Raises:
            UnansweredError: There was none, in the recorded words; or exactly this request is not recorded.
        """
        name = request.content_hash()
        found = self.recorded.result(name)
        if isinstance(found, UnansweredError):
            raise found
        if found is None:
            raise UnansweredError(
                f"{self.recorded.path} has no record of request {name}: other settings, another seed or other prompts.",
                reason="not_recorded",
            )
        return Answer.from_dict({**found.to_dict(), "cost": 0.0})
