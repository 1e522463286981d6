"""One operator of an attention graph, with where its inputs come from."""

from collections.abc import Mapping

from pydantic import Field, model_validator

from chiasma.core.spec import Spec, suggestion
from chiasma.model.graph.ops import INPUTS, OPS, Constant

Source = int | str


class Node(Spec):
    """One operator and where its inputs come from.

    Attributes:
        op: Its name in the table of operators.
        inputs: ``q``, ``k``, ``v`` or the number of an earlier node.
        constants: What the table lets one choose; what is left out has the usual value.
    """

    op: str
    inputs: tuple[Source, ...] = ()
    constants: Mapping[str, Constant] = Field(default={}, validate_default=True)

    @model_validator(mode="after")
    def _fits_the_table(self) -> "Node":
        op = OPS.get(self.op)
        if op is None:
            near = suggestion(self.op, list(OPS))
            raise ValueError(f"{self.op!r} is no operator of attention graphs.{near} Known: {', '.join(OPS)}")
        if len(self.inputs) != len(op.inputs):
            raise ValueError(f"{self.op} takes {len(op.inputs)} inputs, but got {len(self.inputs)}")
        for source in self.inputs:
            if isinstance(source, str) and source not in INPUTS:
                raise ValueError(f"an input is q, k, v or the number of an earlier node, but got {source!r}")
        object.__setattr__(self, "constants", completed(self.op, self.constants, op.constants))
        return self

    @property
    def key(self) -> tuple[object, ...]:
        """Return what the node computes, whatever it is given."""
        return self.op, tuple(sorted(self.constants.items()))


def completed(
    op: str, chosen: Mapping[str, Constant], known: Mapping[str, tuple[Constant, ...]]
) -> dict[str, Constant]:
    """Return a value for every constant of an operator in the table's own types, so that equal nodes are equal values.

    Args:
        op: What the operator is called.
        chosen: What was chosen; what is left out has the usual value, which is the first that is known.
        known: Values that each constant may take.

    Raises:
        ValueError: A constant or a value is not known.
    """
    for name, value in chosen.items():
        if name not in known:
            raise ValueError(f"{op} has no constant {name!r}; it has: {', '.join(known) or 'none'}")
        if value not in known[name]:
            allowed = ", ".join(map(str, known[name]))
            raise ValueError(f"{op}.{name} must be one of {allowed}, but got {value!r}")
    return {name: _as_listed(values, chosen.get(name)) for name, values in known.items()}


def _as_listed(values: tuple[Constant, ...], chosen: Constant | None) -> Constant:
    return values[0] if chosen is None else values[values.index(chosen)]
