"""What one proposal of a fusion is asked to be: a choice from closed lists, which a policy samples factor by factor."""

from typing import Literal, get_args

from pydantic import Field

from chiasma.core.spec import Spec

Operation = Literal["fresh", "mutate", "crossover"]
Family = Literal["attention", "gated", "bilinear", "mlp", "transformer", "hybrid"]
Depth = Literal[1, 2, 3]
Width = Literal[1, 2, 4]
Gating = Literal["none", "sigmoid", "tanh", "softmax"]
Intensity = Literal["fine_tune", "refine", "topology"]

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
FAMILIES: tuple[Family, ...] = get_args(Family)
DEPTHS: tuple[Depth, ...] = get_args(Depth)
WIDTHS: tuple[Width, ...] = get_args(Width)
GATINGS: tuple[Gating, ...] = get_args(Gating)
INTENSITIES: tuple[Intensity, ...] = get_args(Intensity)


class FusionAction(Spec):
    """How the next fusion is made.

    Attributes:
        operation: A fresh fusion, an edit of a parent, or a cross of a parent with another one.
        family: What a fresh fusion is built around, and of what family the mate in a cross should be.
        depth: Layers of a fresh fusion.
        width: Width of its hidden layers, in multiples of the model's dim.
        gating: How its modalities are weighed before they are joined.
        intensity: How much an edit changes: one attribute, one operator, or the topology.
        parent: Place of the parent among those on offer, the best first; beyond the last one, the last.
    """

    operation: Operation = "fresh"
    family: Family = "attention"
    depth: Depth = 1
    width: Width = 2
    gating: Gating = "none"
    intensity: Intensity = "refine"
    parent: int = Field(default=0, ge=0)
