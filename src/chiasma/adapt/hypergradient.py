"""A controller whose learning rates follow their own gradient, without learning anything else."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from chiasma.adapt.clock import Clock, thinned
from chiasma.adapt.slopes import PARTS, WHOLE, Slope, Slopes
from chiasma.train.callbacks import Action, Moment, Regulate, TensorCallback
from chiasma.train.controlling import HypergradientController
from chiasma.train.regulation import Regulation


class FollowHypergradient(TensorCallback):
    """Multiplies learning rates by what their own gradient says, and does nothing else.

    Args:
        spec: How far and how often.
    """

    name = "controller"

    def __init__(self, spec: HypergradientController) -> None:
        self.spec = spec
        self.slopes = Slopes()
        self.logs: dict[str, float] = dict.fromkeys((*PARTS, WHOLE) if spec.apart else (WHOLE,), 0.0)
        self.trace: list[dict[str, float]] = []
        self.seconds = Clock()

    def review(self, moment: Moment) -> Sequence[Action]:
        """Note places, then displacements, and change rates at the end of each interval."""
        with self.seconds.computing(moment):
            found = self.slopes.look(moment.model, left=-moment.step % self.spec.every, period=self.spec.every)
            return () if found is None else [self._changed(found, moment)]

    def _changed(self, found: Mapping[str, Slope], moment: Moment) -> Regulate:
        highest = math.log(self.spec.reach)
        for name in self.logs:
            move = self.spec.step * found[name].cosine if name in found else 0.0
            self.logs[name] = min(highest, max(-highest, self.logs[name] + move))
        scales = {name: math.exp(value) for name, value in self.logs.items()}
        self.trace = thinned([*self.trace, {"step": moment.step, **scales}])
        if self.spec.apart:
            return Regulate(Regulation(rates={name: scales[name] for name in PARTS}))
        return Regulate(Regulation(rate=scales[WHOLE]))

    def edit_model(self, model: nn.Module, edit: Mapping[str, Any]) -> None:
        """Never asked for: it only regulates."""
        raise AssertionError(f"{self.name} proposes no edits, but was given {dict(edit)}.")

    def state_dict(self) -> Mapping[str, Any]:
        """Return the scales, and what has happened."""
        return {
            "logs": dict(self.logs),
            "trace": list(self.trace),
            "moved": self.slopes.moved,
            "seconds": self.seconds.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.logs = dict(state["logs"])
        self.trace = [dict(each) for each in state["trace"]]
        self.slopes.load({}, moved=bool(state["moved"]))
        self.seconds = Clock(state["seconds"])

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the places or displacements that are held."""
        return self.slopes.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`tensors`."""
        self.slopes.load(tensors, moved=self.slopes.moved)
