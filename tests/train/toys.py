"""Callbacks for tests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from chiasma.data.batch import Tokens
from chiasma.train.callbacks import Action, Callback, EditModel, Moment
from chiasma.train.progress import StepTaken, TrainingProgress
from chiasma.train.trainer import Trainer


class At(Callback):
    """Asks for an action after given steps, and remembers what it saw."""

    def __init__(self, actions: Mapping[int, Action], *, name: str = "at") -> None:
        self.name = name
        self.actions = actions
        self.moments: list[Moment] = []
        self.asked = 0

    def review(self, moment: Moment) -> Sequence[Action]:
        self.moments.append(moment)
        if moment.step not in self.actions:
            return []
        self.asked += 1
        return [self.actions[moment.step]]

    def edit_model(self, model: nn.Module, edit: Mapping[str, Any]) -> None:
        if edit.get("remove"):
            del model.fusion.newcomer
            model.fusion._forward_hooks.clear()
            return
        dim = model.spec.dim
        model.fusion.newcomer = nn.Linear(dim, dim)
        model.fusion.register_forward_hook(
            lambda fusion, _, fused: Tokens(fused.x + fusion.newcomer(fused.x), fused.mask)
        )

    def state_dict(self) -> Mapping[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]


class Each(Callback):
    """Calls a function after each step and asks for nothing."""

    name = "each"

    def __init__(self, see: Callable[[Moment], object]) -> None:
        self.see = see

    def review(self, moment: Moment) -> Sequence[Action]:
        self.see(moment)
        return []

    def edit_model(self, model: nn.Module, edit: Mapping[str, Any]) -> None:
        raise AssertionError("Each never asks for an edit.")

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state == {}


BIRTH, DEATH = EditModel({"add": "newcomer"}), EditModel({"remove": "newcomer"})


class StopAfter(TrainingProgress):
    """Asks a trainer to stop after a step, as a signal handler would."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.done = 0
        self.trainer: Trainer | None = None

    def start(self, total_steps: int, *, done: int, history: Sequence[Mapping[str, float]]) -> None:
        self.done = done

    def advance(self, taken: StepTaken) -> None:
        self.done += 1
        if self.done == self.step:
            assert self.trainer is not None
            self.trainer.request_stop()

    def evaluated(self, row: Mapping[str, float], *, metric: str) -> None:
        assert metric in row

    def edited(self, reason: str, *, step: int) -> None:
        assert reason

    def finish(self, stopped: str) -> None:
        assert stopped
