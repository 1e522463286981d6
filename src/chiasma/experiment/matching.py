"""Designs of the same cost: the width at which one attention costs what another does."""

import math
from collections.abc import Callable

from chiasma.core.spec import replace_at, value_at
from chiasma.data.signature import Signature
from chiasma.model.cost import Cost, cost
from chiasma.search.attention_space import attention_slots
from chiasma.train.design import Design

WIDEST = 4


def matched(design: Design, signature: Signature, *, measure: Callable[[Cost], float], target: float) -> Design:
    """Return the design at the width whose cost is nearest to the target; narrower wins a tie.

    Widths are multiples of every number of heads in the design, up to four times its own.

    Args:
        design: What is made wider or narrower.
        signature: What the data look like.
        measure: Which cost is matched; it must not fall as the design gets wider.
        target: The cost to match.
    """
    step = _step(design)
    low, high = 1, max(1, WIDEST * design.model.dim // step)

    def at(multiple: int) -> float:
        return measure(cost(_wide(design, multiple * step).model, signature))

    while low < high:
        middle = (low + high) // 2
        if at(middle) < target:
            low = middle + 1
        else:
            high = middle
    nearest = min((each for each in (low - 1, low) if each >= 1), key=lambda each: (abs(at(each) - target), each))
    return _wide(design, nearest * step)


def _wide(design: Design, dim: int) -> Design:
    return replace_at(design, "model.dim", dim)


def _step(design: Design) -> int:
    return math.lcm(
        *(int(value_at(design, path.removesuffix("attention") + "heads")) for path in attention_slots(design))
    )
