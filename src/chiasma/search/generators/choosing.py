"""The generator that a user names."""

from collections.abc import Callable
from typing import Literal

from chiasma.core.errors import ConfigError
from chiasma.search.generators.generator import Generator
from chiasma.search.generators.replay import ReplayGenerator
from chiasma.search.generators.settings import LanguageModel
from chiasma.search.generators.store import AnswerStore
from chiasma.search.generators.stored import StoredGenerator

Kind = Literal["openai", "transformers", "replay"]


def build_generator(
    kind: Kind,
    settings: LanguageModel,
    store: AnswerStore,
    *,
    cap: float | None = None,
    recorded: AnswerStore | None = None,
    tell: Callable[[str], None] = lambda why: None,
) -> StoredGenerator:
    """Return a generator that keeps its answers; ``grammar`` needs none.

    Args:
        kind: A server, a model in a folder, or the answers of an earlier search.
        settings: Which model, and how it is asked.
        store: Where requests, answers and costs are kept.
        cap: Most dollars; for a server.
        recorded: The store of the earlier search; for ``replay``.
        tell: Is told why the model is not asked any more.

    Raises:
        ConfigError: What the kind needs is not given, or not installed.
    """
    return StoredGenerator(_asked(kind, settings, store, cap=cap, recorded=recorded), store, tell=tell)


def _asked(
    kind: Kind, settings: LanguageModel, store: AnswerStore, *, cap: float | None, recorded: AnswerStore | None
) -> Generator:
    if kind == "replay":
        if recorded is None:
            raise ConfigError("--generator replay needs the run whose answers are replayed, but none is given.")
        return ReplayGenerator(recorded)
    # Both are slow to import, and both are extras.
    if kind == "transformers":
        from chiasma.search.generators.transformers import TransformersGenerator

        return TransformersGenerator(settings)
    from chiasma.search.generators.openai import OpenAIGenerator

    return OpenAIGenerator(settings, store, cap=cap)
