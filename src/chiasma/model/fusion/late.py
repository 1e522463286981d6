"""Late fusion."""

from typing import Literal

from pydantic import Field

from chiasma.core.spec import Spec


class Late(Spec):
    """Each modality is decided on its own; the decisions are merged.

    Attributes:
        method: Concatenate and mix linearly, add, or weigh by attention.
        hidden: Width of the hidden layer of each modality's tower; None for a linear tower.
    """

    kind: Literal["late"] = "late"
    method: Literal["concat", "add", "attention"] = "add"
    hidden: int | None = Field(None, ge=1)
