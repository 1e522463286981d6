"""What a child of the jail may say of a training: names from known lists, bounded numbers, short plain text.

A report draws and prints it, so that it is data of hostile origin with one more reader. What the model, the job or the
arrays also say is compared with them; the rest is the child's word, but can only be a training's.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from chiasma.adapt.clock import MOST_POINTS
from chiasma.adapt.controls import NAMES
from chiasma.adapt.slopes import PARTS, WHOLE
from chiasma.core.spec import Spec
from chiasma.evaluate.jail.said import plain
from chiasma.evaluate.job import Job
from chiasma.model.multimodal import ModelSpec

MOST_ROWS = 10_000
MOST_MEMBERS = 256
# Far beyond what is measured, far below where drawing overflows.
LARGEST = 1e30
ROUNDING = 1e-3


def _printable(text: str) -> str:
    if plain(text) != text:
        raise ValueError("must be one short line of printable characters")
    return text


Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Text = Annotated[str, AfterValidator(_printable)]
Name = Annotated[str, Field(pattern=r"^\w{1,100}$")]
Figures = Annotated[dict[Annotated[str, Field(pattern=r"^[\w.@-]{1,100}$")], Finite], Field(max_length=64)]
Setting = Annotated[str, Field(pattern=f"^({'|'.join(('step', 'loss', *NAMES, *PARTS, WHOLE))})$")]
Role = Literal["member", "newcomer", "leaving"]
Curve = Annotated[tuple[Finite, ...], Field(max_length=MOST_ROWS, fail_fast=True)]


class Life(Spec):
    """As :class:`chiasma.adapt.lifecycle.Life`, bounded."""

    name: Name
    kind: Name
    role: Role
    born: Count
    died: Count | None
    parent: Name | None
    promoted: Count | None
    shares: Annotated[tuple[Amount, ...], Field(max_length=MOST_ROWS, fail_fast=True)]
    gains: Curve
    errors: Curve
    contributions: Curve


class Event(Spec):
    """One birth, promotion, retirement or pruning."""

    review: Count
    step: Count
    loss: Finite
    event: Literal["birth", "promotion", "retirement", "pruning"]
    name: Name
    reason: Text
    undone: bool
    prior: Finite = 0.0
    gain: Finite = 0.0
    difference: Finite = 0.0


class Edges(Spec):
    """Who heard how much of whom; no weights where members do not hear of each other."""

    members: Annotated[tuple[Name, ...], Field(max_length=MOST_MEMBERS, fail_fast=True)] = ()
    weights: Annotated[
        tuple[
            Annotated[
                tuple[Annotated[float, Field(ge=0, le=1 + ROUNDING)], ...],
                Field(max_length=MOST_MEMBERS, fail_fast=True),
            ],
            ...,
        ],
        Field(max_length=MOST_MEMBERS, fail_fast=True),
    ] = ()

    @model_validator(mode="after")
    def _square(self) -> Self:
        count = len(self.members)
        if self.weights and (len(self.weights), {len(row) for row in self.weights}) != (count, {count}):
            raise ValueError(f"edges must be {count} rows of {count} weights")
        return self


class Kept(Spec):
    """Which step is kept, and who is in it."""

    step: Count
    review: Count
    members: Annotated[dict[Name, Role], Field(max_length=MOST_MEMBERS)]
    shares: Annotated[dict[Name, Amount], Field(max_length=MOST_MEMBERS)]
    edges: Edges


class GrowthTold(Spec):
    """The record of growth, as :func:`chiasma.adapt.kept.growth_of` returns it."""

    lives: Annotated[dict[Name, Life], Field(max_length=MOST_ROWS)]
    events: Annotated[tuple[Event, ...], Field(max_length=MOST_ROWS, fail_fast=True)]
    reviews: Annotated[int, Field(ge=0, le=MOST_ROWS)]
    edges: Edges
    began: Annotated[float, Field(ge=0, le=1)] | None
    waits: dict[Literal["reviews", "room", "learned", "never"], Text]
    cooldown: Annotated[dict[Name, Count], Field(max_length=MOST_MEMBERS)]
    warming: Annotated[dict[Name, Count], Field(max_length=MOST_MEMBERS)]
    kept: Kept

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        wrong = next((name for name, life in self.lives.items() if life.name != name), None)
        if wrong is not None:
            raise ValueError(f"the life of {wrong} has another name")
        named = {*self.kept.shares, *self.kept.edges.members, *(event.name for event in self.events)}
        unknown = sorted((named | {*self.kept.members}) - {*self.lives})
        if unknown:
            raise ValueError(f"{unknown[0]} has no life")
        return self


class Return(Spec):
    """One roll-back of a controller."""

    step: Count
    reason: Text


class Seconds(Spec):
    """What a controller cost."""

    steps: Amount
    computing: Amount
    measuring: Amount


class ControllerTold(Spec):
    """What a report tells of a controller, as :func:`chiasma.adapt.callbacks.told` returns it."""

    trace: Annotated[tuple[dict[Setting, Finite], ...], Field(max_length=MOST_POINTS, fail_fast=True)]
    seconds: Seconds
    returns: Annotated[tuple[Return, ...], Field(max_length=MOST_ROWS, fail_fast=True)] = ()
    every: Annotated[int, Field(ge=1, le=10**9)] | None = None

    @model_validator(mode="after")
    def _every_point_has_its_step(self) -> Self:
        if not all("step" in point for point in self.trace):
            raise ValueError("each point of a curve has its step")
        if len({frozenset({*point} - {"step", "loss"}) for point in self.trace}) > 1:
            raise ValueError("each point of a curve has the same settings")
        return self


class Told(Spec):
    """What a child says of a training; bounded, and its word."""

    spec: Mapping[str, Any]
    steps: Count
    seconds: Amount
    stopped: Text
    best: Figures
    history: Annotated[list[Figures], Field(max_length=MOST_ROWS, fail_fast=True)]
    flops: Amount
    parameters: int = Field(ge=0)
    latency: Amount | None = None
    growth: GrowthTold | None = None
    controller: ControllerTold | None = None
    weights_bytes: int = Field(ge=8)


class NotATrainingError(ValueError):
    """What a child said cannot be said of a training."""


def read_told(said: Mapping[str, Any]) -> Told:
    """Return what a child says.

    Raises:
        NotATrainingError: It is not what can be said of a training; names the place and the rule, in plain text.
    """
    try:
        # A training without growth or controller says nothing of them, as an empty mapping.
        return Told.model_validate({name: value for name, value in said.items() if value != {} or name == "best"})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(plain(part)[:40] for part in first["loc"])
        raise NotATrainingError(f"{place}: {plain(first['msg'])}") from None
    except RecursionError:
        raise NotATrainingError("it is nested too deeply") from None


def check_told(told: Told, job: Job, spec: ModelSpec) -> None:
    """Compare what a child says with what is known otherwise.

    Args:
        told: What it says.
        job: What it was to train.
        spec: The model that it returned, which may be the job's.

    Raises:
        NotATrainingError: They do not agree.
    """
    training, keeps = job.design.training, job.keep_checkpoint is not None
    due = {"growth": keeps and training.growth is not None, "controller": keeps and training.controller is not None}
    for name, wanted in due.items():
        if wanted != (getattr(told, name) is not None):
            raise NotATrainingError(f"{name}: {'is not told' if wanted else 'is told of a training without it'}")
    _check_history(told, job)
    if told.growth is None:
        return
    members = {} if spec.trunk is None else {name: place.role for name, place in spec.trunk.members.items()}
    if told.growth.kept.members != members:
        raise NotATrainingError("growth.kept.members: must be those of the model that is kept")
    routed = sorted(name for name, role in members.items() if role != "newcomer")
    if sorted(told.growth.kept.shares) != routed or list(told.growth.kept.edges.members) != routed:
        raise NotATrainingError("growth.kept: the router weighs the members that the model has")
    if max(told.growth.kept.step, *(event.step for event in told.growth.events), 0) > told.steps:
        raise NotATrainingError("growth: nothing happens after the last step")


def _check_history(told: Told, job: Job) -> None:
    needed, last = {"step", "epoch", "rate", "train_loss", job.metric}, 0.0
    for row in (*told.history, *([told.best] if told.best else [])):
        missing = sorted(needed - {*row})
        if missing:
            raise NotATrainingError(f"history: each row has {missing[0]}")
    for row in told.history:
        if not last <= row["step"] <= told.steps:
            raise NotATrainingError("history: its steps rise to the last one")
        last = row["step"]
    if told.best and told.best not in told.history:
        raise NotATrainingError("best: must be a row of the history")
