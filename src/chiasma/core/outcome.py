"""What an evaluation came to. A candidate's fault and ours are never mixed, and neither is ever a score."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from chiasma.core.spec import Spec


class Scored(Spec):
    """The candidate was trained and measured.

    Attributes:
        objectives: What the search minimises, by name: ``{"error": 0.03, "flops": 1.2e6}``.
        metrics: Everything else that was measured, by name; higher is better only where the metric says so.
    """

    kind: Literal["scored"] = "scored"
    objectives: Mapping[str, float]
    metrics: Mapping[str, float] = {}


class Rejected(Spec):
    """The candidate is at fault: it does not build, diverges, or is over a limit."""

    kind: Literal["rejected"] = "rejected"
    stage: str
    reason: str


class Failed(Spec):
    """We are at fault, or the machine: a crash, a killed worker, a full disk. Retried, never a score."""

    kind: Literal["failed"] = "failed"
    error: str


Outcome = Annotated[Scored | Rejected | Failed, Field(discriminator="kind")]

_ADAPTER: TypeAdapter[Scored | Rejected | Failed] = TypeAdapter(Outcome)


def outcome_from_json(text: str) -> Scored | Rejected | Failed:
    """Return the outcome that ``to_json`` wrote."""
    return _ADAPTER.validate_json(text)
