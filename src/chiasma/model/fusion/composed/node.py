"""One operator of a composed fusion, with where its inputs come from."""

from collections.abc import Mapping

from pydantic import Field, model_validator

from chiasma.core.spec import Spec, suggestion
from chiasma.model.attention import AttentionSpec, DotProduct
from chiasma.model.fusion.composed.ops import INPUTS, OPS
from chiasma.model.graph.node import Source, completed
from chiasma.model.graph.ops import Constant


class FusionNode(Spec):
    """One operator and where its inputs come from.

    Attributes:
        op: Its name in the table of operators.
        inputs: ``image``, ``text`` or the number of an earlier node.
        constants: What the table lets one choose; what is left out has the usual value.
        attention: How tokens look at tokens; None for operators that do not look.
    """

    op: str
    inputs: tuple[Source, ...] = ()
    constants: Mapping[str, Constant] = Field(default={}, validate_default=True)
    attention: AttentionSpec | None = None

    @model_validator(mode="after")
    def _fits_the_table(self) -> "FusionNode":
        op = OPS.get(self.op)
        if op is None:
            near = suggestion(self.op, list(OPS))
            raise ValueError(f"{self.op!r} is no operator of fusions.{near} Known: {', '.join(OPS)}")
        if len(self.inputs) != len(op.inputs):
            raise ValueError(f"{self.op} takes {len(op.inputs)} inputs, but got {len(self.inputs)}")
        for source in self.inputs:
            if isinstance(source, str) and source not in INPUTS:
                raise ValueError(f"an input is image, text or the number of an earlier node, but got {source!r}")
        if self.attention is not None and self.op != "attend":
            raise ValueError(f"only attend has an attention, but {self.op} is given {self.attention.kind!r}")
        # A validator may not return another value than itself, and the complete one is wanted.
        object.__setattr__(self, "constants", completed(self.op, self.constants, op.constants))
        if self.op == "attend" and self.attention is None:
            object.__setattr__(self, "attention", DotProduct())
        return self

    @property
    def key(self) -> tuple[object, ...]:
        """Return what the node computes, whatever it is given."""
        attention = "" if self.attention is None else self.attention.to_json()
        return self.op, tuple(sorted(self.constants.items())), attention
