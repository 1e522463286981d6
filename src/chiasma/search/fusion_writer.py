"""Let a language model write a fusion: ask, read, try, send back what was wrong, and keep the conversation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from chiasma.core.errors import ChiasmaError
from chiasma.core.rng import derive_seed
from chiasma.search.bridge import Bridge, Shown
from chiasma.search.fusion_action import FusionAction
from chiasma.search.generators.generator import Answer, Generator, Message, Reason, Request, UnansweredError
from chiasma.search.generators.parsing import Code, Nothing, Tree, code_of, tree_of
from chiasma.search.generators.settings import LanguageModel
from chiasma.search.novelty import UnreadableSourceError, normalised_source
from chiasma.train.design import Design

Author = Literal["grammar", "code", "json"]


class Maker(Protocol):
    """Puts what a model wrote into a design."""

    def __call__(self, written: str | Mapping[str, Any], base: Design) -> Design:
        """Return the base with this fusion: source as text, a tree as values.

        Raises:
            ChiasmaError: It is no fusion, and why.
            ValueError: The same.
        """
        ...


@dataclass
class Writing:
    """What came of one request for a design.

    Attributes:
        design: What can be tried; None where there is nothing.
        turns: Answers that were read.
        refused: Why each of them but the last, or all of them, could not be used.
        stopped: Why the model was not asked any further; None where it was asked as often as allowed.
        conversation: What was said, with a verdict on each answer.
    """

    design: Design | None = None
    turns: int = 0
    refused: list[str] = field(default_factory=list[str])
    stopped: Reason | None = None
    conversation: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class FusionWriter:
    """Asks a language model for a fusion, and sends back what cannot be used, with the reason.

    Args:
        generator: Whoever answers; one that keeps its answers, where the search is to be resumed.
        bridge: Words the prompts.
        settings: The model, its temperature, its longest answer, and how often an answer goes back.
        make: Puts what was written into a design.
        examine: Returns what is wrong with a design before it is trained (screened, built, probed), in one line, or
            None. Free source is examined in the jail.
        keep: Keeps the conversation that led to a candidate, by the candidate's hash.
    """

    def __init__(
        self,
        generator: Generator,
        bridge: Bridge,
        *,
        settings: LanguageModel,
        make: Maker,
        examine: Callable[[Design], str | None] = lambda design: None,
        keep: Callable[[str, Sequence[Mapping[str, Any]]], None] = lambda candidate, conversation: None,
    ) -> None:
        self.generator = generator
        self.bridge = bridge
        self.settings = settings
        self.keep = keep
        self._make = make
        self._examine = examine

    @property
    def author(self) -> Author:
        """Return how its designs are marked."""
        return self.bridge.form

    def write(
        self,
        action: FusionAction,
        *,
        base: Design,
        parents: Sequence[Shown],
        errors: Sequence[str],
        best: float | None,
        known: Callable[[Design], str | None],
        seed: int,
        refuse: Callable[[Design], str | None] = lambda design: None,
    ) -> Writing:
        """Return a design that is sound and new, or what was tried.

        Args:
            action: What is wanted.
            base: Everything but the fusion.
            parents: What it is made from.
            errors: Why recent designs could not be used.
            best: The best reward so far.
            known: Returns which known design is equal to one, or None.
            seed: Distinguishes this writing from others that read the same.
            refuse: Returns why a design is not wanted here, or None.
        """

        def faults(design: Design) -> str | None:
            twin = known(design)
            if twin is not None:
                return f"this design is not new: it does the same as design {twin}, which was tried before"
            return refuse(design) or self._examine(design)

        writing = Writing()
        messages = self.bridge.ask(action, parents=parents, errors=errors, best=best)
        for turn in range(self.settings.repairs + 1):
            request = self._request(messages, derive_seed(seed, "turn", turn))
            try:
                answer = self.generator.answer(request)
            except UnansweredError as error:
                writing.stopped = error.reason
                writing.conversation.append({"role": "chiasma", "content": str(error)})
                return writing
            writing.turns += 1
            found = self._read(answer, base, faults)
            said = messages if turn == 0 else messages[-1:]
            verdict = None if isinstance(found, Design) else found
            writing.conversation += [*(each.to_dict() for each in said), _said(answer, verdict)]
            if isinstance(found, Design):
                writing.design = found
                return writing
            writing.refused.append(found)
            messages = self.bridge.repair(messages, answer=answer.text, reason=found)
        return writing

    def _request(self, messages: tuple[Message, ...], seed: int) -> Request:
        return Request(
            model=self.settings.named_model(),
            messages=messages,
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
            template=self.bridge.version,
            seed=seed,
            json_only=self.bridge.form == "json",
        )

    def _read(self, answer: Answer, base: Design, faults: Callable[[Design], str | None]) -> Design | str:
        """Return the design in an answer, or why there is none that could be tried."""
        found: Code | Tree | Nothing = code_of(answer) if self.bridge.form == "code" else tree_of(answer)
        if isinstance(found, Nothing):
            return found.reason
        try:
            if isinstance(found, Code):
                normalised_source(found.source)
            design = self._make(found.source if isinstance(found, Code) else found.values, base)
        except (ChiasmaError, ValueError) as error:
            said = str(error).strip().splitlines()
            words = said[0] if said else "no reason was given"
            return words if isinstance(error, UnreadableSourceError) else f"{type(error).__name__}: {words}"
        return faults(design) or design


def _said(answer: Answer, verdict: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": answer.text, "finish": answer.finish, "refused": verdict}
