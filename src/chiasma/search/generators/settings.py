"""Which language model is asked, how, and what it costs: the section ``llm`` of the settings."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec
from chiasma.search.generators.generator import Request

OPENAI_VARIABLE = "OPENAI_API_KEY"


class Prices(Spec):
    """Dollars for a million tokens; None where they are not known, or nothing is charged.

    Attributes:
        prompt: For tokens that are read.
        answer: For tokens that are written.
    """

    prompt: float | None = Field(default=None, ge=0)
    answer: float | None = Field(default=None, ge=0)

    @property
    def known(self) -> bool:
        """Return whether both are known."""
        return self.prompt is not None and self.answer is not None

    def of(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Return what tokens cost, in dollars; 0 where prices are not known."""
        return ((self.prompt or 0.0) * prompt_tokens + (self.answer or 0.0) * answer_tokens) / 1e6

    def most(self, request: Request) -> float:
        """Return the greatest possible cost of a request."""
        return self.of(request.most_tokens, request.max_tokens)


class LanguageModel(Spec):
    """The language model that writes fusions.

    Attributes:
        model: Its name, as the server knows it.
        base_url: Address of an OpenAI-compatible server, such as ``http://localhost:11434/v1``; None is OpenAI's own.
            Stored and shown, hence without a login or a query.
        variable: Environment variable that holds the key. None is ``OPENAI_API_KEY`` for OpenAI's own server, and no
            key for one with an address of its own: it gets the key that is named for it, and no other.
        folder: Folder of a causal language model for ``--generator transformers``.
        device: Where that model runs.
        form: ``code`` asks for free source, ``json`` for a typed tree, which needs no jail.
        temperature: How freely it samples.
        max_tokens: Longest answer; what the model thinks before it answers counts too.
        limit: What the server calls that; newer models of OpenAI know ``max_completion_tokens`` alone.
        send_seed: Send a seed, so that a server that knows it answers alike.
        timeout_seconds: Longest wait for one answer.
        deadline_seconds: Longest wait for a request with all its attempts.
        attempts: Most attempts of one request, where the server is at fault.
        backoff_seconds: Wait before the second attempt; it doubles, with a random part, up to ``patience_seconds``.
        patience_seconds: Longest wait between attempts, unless the server asks for more.
        repairs: How often an answer that cannot be used goes back to the model with its error.
        prices: What it charges; a limit on dollars needs them.
    """

    model: str | None = None
    base_url: str | None = None
    variable: str | None = None
    folder: str | None = None
    device: str = "cpu"
    form: Literal["code", "json"] = "code"
    temperature: float = Field(default=0.8, ge=0, le=2)
    max_tokens: int = Field(default=4096, ge=1)
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    send_seed: bool = False
    timeout_seconds: float = Field(default=120.0, gt=0)
    deadline_seconds: float = Field(default=300.0, gt=0)
    attempts: int = Field(default=5, ge=1)
    backoff_seconds: float = Field(default=1.0, gt=0)
    patience_seconds: float = Field(default=30.0, gt=0)
    repairs: int = Field(default=3, ge=0, le=3)
    prices: Prices = Prices()

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        # Looked for in the text: a password can hold what makes a parser take it for another part.
        if value is not None and any(sign in value for sign in "@?#"):
            raise ValueError(
                "an address is stored and shown, so it holds no login, no query and no fragment (no @, ? or #), but "
                "this one does; a key belongs in an environment variable: llm.variable=NAME"
            )
        if value is not None and (not value.startswith(("http://", "https://")) or not urlsplit(value).hostname):
            raise ValueError(f"an address is http:// or https:// and a host, but got {value!r}")
        return value

    def named_model(self) -> str:
        """Return the model's name, which for one in a folder is the folder's.

        Raises:
            ConfigError: None is given.
        """
        if not self.model and self.folder is not None:
            return Path(self.folder).expanduser().name
        if not self.model:
            raise ConfigError("llm.model: the name of a model is needed, but none is given: --set llm.model=NAME.")
        return self.model

    def check_cap(self, dollars: float | None) -> None:
        """Refuse a limit on dollars that could not be kept.

        Raises:
            ConfigError: There is a limit, but a price is not known.
        """
        if dollars is not None and not self.prices.known:
            raise ConfigError(
                f"llm.prices: a limit of ${dollars:g} can only be kept where both prices are known, but prompt is "
                f"{self.prices.prompt} and answer is {self.prices.answer} (dollars for a million tokens): "
                "--set llm.prices.prompt=... llm.prices.answer=... (0 for a model of your own)."
            )
