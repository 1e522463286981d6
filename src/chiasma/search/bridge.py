"""From a design action to the words that a language model is asked in."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import Field

from chiasma.core.spec import Spec
from chiasma.model.generated import MOST_PARAMETERS
from chiasma.search.fusion_action import Family, FusionAction, Gating, Intensity
from chiasma.search.generators.generator import Message

VERSION = 1
TEMPLATES = ("contract_code.j2", "contract_json.j2", "request.j2", "repair.j2")
LONGEST_ERROR = 300
LONGEST_PARENT = 20_000
LAST_ERRORS = 3

Form = Literal["code", "json"]

FAMILY_WORDS: Mapping[Family, str] = {
    "attention": "attention between the modalities: tokens of one ask, tokens of the other answer",
    "gated": "gates: each modality decides how much of the other passes",
    "bilinear": "products of the two modalities, of low rank so that it stays small",
    "mlp": "pooled modalities that are joined and passed through layers of perceptrons",
    "transformer": "a transformer over the tokens of both modalities together",
    "hybrid": "a combination of two different principles, such as attention and products",
}
GATING_WORDS: Mapping[Gating, str] = {
    "none": "no gates",
    "sigmoid": "sigmoid gates",
    "tanh": "tanh gates",
    "softmax": "softmax weights over the modalities",
}
WIDTH_WORDS: Mapping[int, str] = {
    1: "hidden layers as wide as dim",
    2: "hidden layers twice as wide as dim",
    4: "hidden layers four times as wide as dim",
}
INTENSITY_WORDS: Mapping[Intensity, str] = {
    "fine_tune": "Change one number of the first design, such as dropout, heads or a width, and nothing else.",
    "refine": "Replace one operation of the first design by another that does the same work, such as an activation, a "
    "normalisation, a kind of pooling or the form of a gate.",
    "topology": "Change how the parts of the first design are connected: add, remove or rewire a branch.",
}


class Shown(Spec):
    """A design as a language model is shown it.

    Attributes:
        text: Source, or JSON of a tree.
        family: What it is built around.
        reward: What it earned.
        metric: What was validated, before penalties.
    """

    text: str
    family: str
    reward: float
    metric: float | None = None


class Limits(Spec):
    """What the contract says about size.

    Attributes:
        max_parameters: Most parameters of a module that is 64 wide.
        multiple: What the width is a multiple of.
        penalised: What the reward takes something off for, in words.
    """

    max_parameters: int = Field(default=MOST_PARAMETERS, ge=1)
    multiple: int = Field(default=8, ge=1)
    penalised: tuple[str, ...] = ()


class Bridge:
    """Writes prompts, and what is said of an answer that cannot be used.

    Args:
        form: Free source, or a typed tree as JSON.
        limits: What the contract says about size.
        schema: JSON schema of the tree; for ``json`` alone.

    Raises:
        ValueError: ``json`` without a schema.
    """

    def __init__(
        self, form: Form = "code", *, limits: Limits | None = None, schema: Mapping[str, Any] | None = None
    ) -> None:
        if form == "json" and schema is None:
            raise ValueError("form json needs the schema of the tree, but got none.")
        self.form: Form = form
        self.limits = limits or Limits()
        self.schema = schema

    @property
    def version(self) -> str:
        """Return the version of the templates, which changes with every word of them."""
        return f"{VERSION}-{_digest()}"

    def ask(
        self, action: FusionAction, *, parents: Sequence[Shown], errors: Sequence[str] = (), best: float | None = None
    ) -> tuple[Message, ...]:
        """Return the conversation that asks for one design.

        Args:
            action: What is wanted.
            parents: What it is made from; the one to change first. None of them for a fresh design.
            errors: Why recent designs could not be used.
            best: The best reward so far.
        """
        told = self.limits.to_dict()
        if self.form == "json":
            told["schema"] = json.dumps(self.schema, sort_keys=True, ensure_ascii=False)
        system = _render(f"contract_{self.form}.j2", **told)
        user = _render(
            "request.j2",
            parents=[each.model_copy(update={"text": each.text[:LONGEST_PARENT]}) for each in parents],
            errors=[_first_line(error) for error in errors[-LAST_ERRORS:]],
            task=task_of(action, len(parents)),
            best=best,
            language="python" if self.form == "code" else "json",
        )
        return Message(role="system", content=system), Message(role="user", content=user)

    def repair(self, messages: Sequence[Message], *, answer: str, reason: str) -> tuple[Message, ...]:
        """Return the conversation that sends an answer back with the reason why it cannot be used."""
        thing = "module" if self.form == "code" else "object"
        words = _render("repair.j2", reason=_first_line(reason), thing=thing)
        shown = answer[:LONGEST_PARENT] or "(nothing)"
        return (*messages[:2], Message(role="assistant", content=shown), Message(role="user", content=words))


def task_of(action: FusionAction, parents: int) -> str:
    """Return a design action in words; without its parents it asks for something fresh."""
    if action.operation == "crossover" and parents > 1:
        return (
            "Cross the two designs: take what is strong in the first and put into it one idea of the second, so that "
            f"the child is better than either. What the second brings should be {FAMILY_WORDS[action.family]}."
        )
    if action.operation != "fresh" and parents > 0:
        return INTENSITY_WORDS[action.intensity]
    layers = "one layer" if action.depth == 1 else f"{action.depth} layers"
    return (
        f"Write a new design around {FAMILY_WORDS[action.family]}. It has {layers}, {WIDTH_WORDS[action.width]} and "
        f"{GATING_WORDS[action.gating]}."
    )


def _first_line(text: str) -> str:
    """Return the first line, capped."""
    lines = text.strip().splitlines()
    return lines[0][:LONGEST_ERROR] if lines else ""


def _fenced(text: str, language: str) -> str:
    """Return text in a fence that nothing inside it can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text.strip()}\n{marks}"


def _quoted(text: str) -> str:
    """Return text as a JSON string: data that cannot be taken for a line of ours."""
    return json.dumps(text, ensure_ascii=False)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("chiasma.search", "prompts"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    untyped: Any = environment
    untyped.filters |= {"fenced": _fenced, "quoted": _quoted}
    return environment


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values).strip() + "\n"


@cache
def _digest() -> str:
    environment = _environment()
    assert environment.loader is not None
    texts = [environment.loader.get_source(environment, name)[0] for name in TEMPLATES]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]
