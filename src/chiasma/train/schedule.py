"""The learning rate as a pure function of the step; only plateaus remember anything, and that apart."""

import math

from chiasma.core.spec import Spec
from chiasma.train.design import Constant, Cosine, Linear, OneCycle, OptimSpec, Plateau


def rate_factor(optim: OptimSpec, *, step: int, total_steps: int) -> float:
    """Return the fraction of the peak rate to use in ``step``, counted from 0.

    Warm-up multiplies: the rate rises linearly over the first ``warmup`` of the steps, or ``warmup_steps`` of them, and
    cosine and linear decay run over the rest; a training that ends before never reaches its peak. One-cycle has its own
    rise and runs over all steps. A plateau's factor is not included.
    """
    warm = optim.warming(total_steps)
    ramp = (step + 1) / warm if step < warm else 1.0
    progress = max(0.0, (step - warm) / max(1, total_steps - warm))
    match optim.schedule:
        case Cosine(floor=floor):
            return ramp * _glide(1.0, floor, progress)
        case Linear(floor=floor):
            return ramp * (1.0 + (floor - 1.0) * progress)
        case OneCycle() as cycle:
            return ramp * _one_cycle(cycle, step / total_steps)
        case Constant() | Plateau():
            return ramp


class PlateauState(Spec):
    """What a plateau schedule remembers between evaluations.

    Attributes:
        factor: What the rate is multiplied by now.
        best: The best score so far, oriented so that more is better.
        stale: Evaluations since then.
    """

    factor: float = 1.0
    best: float | None = None
    stale: int = 0


def after_evaluation(state: PlateauState, *, score: float, rules: Plateau) -> PlateauState:
    """Return the state after an evaluation scored ``score`` (more is better)."""
    if state.best is None or score > state.best:
        return PlateauState(factor=state.factor, best=score)
    if state.stale + 1 < rules.patience:
        return PlateauState(factor=state.factor, best=state.best, stale=state.stale + 1)
    return PlateauState(factor=state.factor * rules.factor, best=state.best)


def _one_cycle(cycle: OneCycle, progress: float) -> float:
    if progress < cycle.rise:
        return _glide(cycle.start, 1.0, progress / cycle.rise)
    return _glide(1.0, cycle.floor, (progress - cycle.rise) / (1 - cycle.rise))


def _glide(start: float, end: float, progress: float) -> float:
    """Return a point on half a cosine from ``start`` to ``end``."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
