"""What is asked of a language model, what it answers, and how it can fail to."""

from abc import ABC, abstractmethod
from typing import Literal

from pydantic import Field

from chiasma.core.errors import ChiasmaError
from chiasma.core.spec import Spec

Role = Literal["system", "user", "assistant"]

# How a request can end without an answer. ``closed`` and ``capped``: it was never sent.
Reason = Literal[
    "connection",
    "timeout",
    "redirect",
    "denied",
    "refused_request",
    "overloaded",
    "server_error",
    "unreadable",
    "too_long",
    "closed",
    "capped",
    "not_recorded",
    "failed",
]


class Message(Spec):
    """One turn of a conversation."""

    role: Role
    content: str


class Request(Spec):
    """Everything on which an answer depends; its content hash names it in the store.

    Attributes:
        model: Name of the model.
        messages: The conversation so far.
        temperature: How freely the model samples.
        max_tokens: Longest answer.
        template: Version of the prompt templates.
        seed: Distinguishes requests that read the same: a second one is to be answered anew.
        json_only: The answer must be JSON.
    """

    model: str
    messages: tuple[Message, ...] = Field(min_length=1)
    temperature: float = Field(default=0.8, ge=0)
    max_tokens: int = Field(default=4096, ge=1)
    template: str
    seed: int
    json_only: bool = False

    @property
    def most_tokens(self) -> int:
        """Return the most tokens that its text can be: a token is at least a byte, and each turn has a frame."""
        frame = 16
        return frame + sum(frame + len(message.content.encode()) for message in self.messages)


class Answer(Spec):
    """What a language model answered.

    Attributes:
        text: Its words.
        prompt_tokens: Tokens that were read.
        answer_tokens: Tokens that were written.
        cost: Dollars.
        seconds: From the first attempt to the end of the answer.
        finish: Why the model stopped: ``stop``, ``length`` where it was cut off, or what the server says.
        refusal: The model's words where it declined in so many words.
    """

    text: str
    prompt_tokens: int = Field(default=0, ge=0)
    answer_tokens: int = Field(default=0, ge=0)
    cost: float = Field(default=0.0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    finish: str = "stop"
    refusal: str | None = None


class UnansweredError(ChiasmaError):
    """A request came to no answer; one line says why.

    Attributes:
        reason: Why, from a closed list.
        for_good: Asking again cannot help: a wrong key, an unknown model.
    """

    def __init__(self, message: str, *, reason: Reason, for_good: bool = False) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.for_good = for_good


class Generator(ABC):
    """Answers requests."""

    @property
    def broken(self) -> str | None:
        """Return why no request will ever be answered, in one line; None as long as one may be."""
        return None

    @abstractmethod
    def answer(self, request: Request) -> Answer:
        """Return the answer.

        Raises:
            UnansweredError: There is none, and why.
        """
