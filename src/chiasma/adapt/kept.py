"""How a trunk grew, told with what of it is kept: the best evaluation may lie before the last events."""

from typing import Any

from chiasma.adapt.growth import NAME
from chiasma.adapt.measure import Measuring
from chiasma.data.dataset import Dataset
from chiasma.train.design import LoopSpec
from chiasma.train.devices import Precision
from chiasma.train.fit import Fit


def growth_of(fit: Fit, loop: LoopSpec, data: Dataset, *, precision: Precision) -> dict[str, Any]:
    """Return the record of growth, with ``kept``, and ``undone`` for each event; empty where no trunk grew.

    ``kept`` is the step and the review whose weights are in the model, the role of everybody in it, and the router's
    weights and edges as they are there. A newcomer that is in the kept model still stands beside the router and adds
    what it added when that step was measured: without it the model would be another than the one that was best.

    Args:
        fit: The training.
        loop: Whether the weights of the best evaluation are kept.
        data: On whose ``steer`` the router is measured.
        precision: Of matrix products.
    """
    record = fit.callbacks.get(NAME)
    if record is None:
        return {}
    restored = loop.restore_best and bool(fit.best)
    step = int(fit.best["step"]) if restored else fit.steps
    events = [{**event, "undone": restored and event["step"] >= step} for event in record["events"]]
    trunk = fit.model.spec.trunk
    assert trunk is not None
    shares, edges = Measuring(data, data.rows("steer"), precision=precision).routing(fit.model)
    kept = {
        "step": step,
        "review": min(record["reviews"], sum(row["step"] <= step for row in fit.history)),
        "members": {name: place.role for name, place in sorted(trunk.members.items())},
        "shares": shares,
        "edges": {"members": sorted(shares), "weights": edges},
    }
    return {**record, "events": events, "kept": kept}
