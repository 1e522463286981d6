"""Members of the trunk are born, promoted and pruned while the model trains."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from chiasma.adapt.controller import Controller
from chiasma.adapt.lifecycle import Add, Decision, Life, Promote, Prune, Retire, contributions, kinds_for, review
from chiasma.adapt.measure import Measured, Measuring, population_of
from chiasma.adapt.recalibrated import part_learned
from chiasma.adapt.strategist import Birth, at_random, conceive
from chiasma.adapt.waiting import never_began, no_room, too_few_reviews, too_little_learned, waited
from chiasma.core.rng import numpy_rng
from chiasma.data.dataset import Dataset
from chiasma.model.mechanisms import mechanisms_of
from chiasma.model.multimodal import MultimodalModel
from chiasma.model.trunk import Place
from chiasma.train.callbacks import Action, Callback, EditModel, Moment, Say, ScaleLearningRate
from chiasma.train.design import GrowthSpec
from chiasma.train.devices import Precision

NAME = "growth"


class Growth(Callback):
    """Reviews the population after every evaluation on ``steer``; at most one thing happens in each review.

    Nothing happens before the model has learned something (``learned``); once it has, growth has begun for good. Why
    nothing happens is said once.

    Measured are the weights that learn, also where their averages are evaluated (``train.ema``): the averages of a
    newcomer follow its weights with a delay of ``1 / (1 - ema)`` steps, and it would be judged by what it was long ago.

    Args:
        rules: When what happens.
        data: Whose ``steer`` split decides.
        seed: Of the training; each review's randomness follows from it.
        precision: Of matrix products.
        urging: A controller whose structural proposals lean on the rules; None for none.

    Attributes:
        lives: Everybody who was ever there, by name.
        events: What happened, in order, as plain JSON.
        began: Part of the training after which the model had learned enough; None before.
        waits: Why growth waits or waited, in words, by cause.
    """

    name = NAME

    def __init__(
        self,
        rules: GrowthSpec,
        data: Dataset,
        *,
        seed: int,
        precision: Precision = "float32",
        urging: Controller | None = None,
    ) -> None:
        self.rules = rules
        self.urging = urging
        self.seed = seed
        self.measuring = Measuring(data, data.rows("steer"), precision=precision)
        self.lives: dict[str, Life] = {}
        self.events: list[dict[str, Any]] = []
        self.reviews = 0
        self.edges: dict[str, Any] = {}
        self.began: float | None = None
        self.waits: dict[str, str] = {}
        self._cooldown: dict[str, int] = {}
        self._warming: dict[str, int] = {}

    def review(self, moment: Moment) -> Sequence[Action]:
        """Measure everybody after an evaluation, and return what should happen."""
        if moment.metrics is None:
            return ()
        assert isinstance(moment.model, MultimodalModel)
        model = moment.model
        self.reviews += 1
        measured = self.measuring.members(model)
        self._note(model, measured)
        warmer = [*self._warm(), *self._look(moment, measured)]
        decision = self._decide(moment, measured)
        if decision is None:
            return warmer
        action, event = self._carry_out(decision, model, measured)
        self.events.append({"review": self.reviews, "step": moment.step, "loss": measured.loss, **event})
        return [*warmer, action, *self._cold(action.edit)]

    def edit_model(self, model: nn.Module, edit: Mapping[str, Any]) -> None:
        """Carry out one event in place."""
        trunk = population_of(cast(MultimodalModel, model))
        name = edit["name"]
        match edit["event"]:
            case "birth":
                trunk.add(name, Place.from_dict(edit["place"]))
                if edit["centre"] is not None:
                    with torch.no_grad():
                        trunk.focus(name).centre.copy_(torch.tensor(edit["centre"]))
                        trunk.focus(name).radius.fill_(edit["radius"])
            case "promotion":
                trunk.promote(name, prior=edit["prior"], gain=edit["gain"])
            case "retirement":
                trunk.retire(name)
            case "pruning":
                trunk.prune(name)
            case event:
                raise AssertionError(f"unknown event {event!r}")

    def state_dict(self) -> Mapping[str, Any]:
        """Return everything that was measured and that happened."""
        return {
            "lives": {name: life.to_dict() for name, life in self.lives.items()},
            "events": list(self.events),
            "reviews": self.reviews,
            "edges": dict(self.edges),
            "began": self.began,
            "waits": dict(self.waits),
            "cooldown": dict(self._cooldown),
            "warming": dict(self._warming),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.lives = {name: Life.from_dict(life) for name, life in state["lives"].items()}
        self.events = [dict(event) for event in state["events"]]
        self.reviews = int(state["reviews"])
        self.edges = dict(state["edges"])
        self.began = state["began"]
        self.waits = dict(state["waits"])
        self._cooldown = dict(state["cooldown"])
        self._warming = dict(state["warming"])

    @property
    def _living(self) -> list[Life]:
        return [life for life in self.lives.values() if life.died is None]

    def _note(self, model: MultimodalModel, measured: Measured) -> None:
        """Add the newest figures to each life."""
        for name, place in sorted(population_of(model).spec.members.items()):
            life = self.lives.get(name) or Life(
                name=name, kind=place.member.kind, role=place.role, parent=place.parent, promoted=0
            )
            figures = {
                "shares": (*life.shares, measured.shares[name]),
                "gains": (*life.gains, measured.gains[name]),
                "errors": (*life.errors, measured.errors[name]),
            }
            self.lives[name] = life.model_copy(update=figures)
        for name, value in contributions(self._living, self.rules).items():
            life = self.lives[name]
            self.lives[name] = life.model_copy(update={"contributions": (*life.contributions, value)})
        self.edges = {"members": list(measured.routed), "weights": [list(row) for row in measured.edges]}

    def _look(self, moment: Moment, measured: Measured) -> list[Action]:
        """Note whether growth has begun, and return why it waits where that was not said yet."""
        rules, progress, causes = self.rules, moment.step / moment.total_steps, dict[str, str | None]()
        if rules.births == "none":
            return []
        if self.reviews == 1:
            causes["reviews"] = too_few_reviews(rules, reviews=moment.total_steps // moment.step)
            causes["room"] = no_room(rules, members=len(self._living))
        learned = 1.0
        if self.began is None:
            learned = part_learned(measured.logits, self.measuring.labels, self.measuring.target)
            if learned >= rules.learned:
                self.began = progress
                if "learned" in self.waits:
                    self.waits["learned"] = waited(rules, began=progress)
            else:
                causes["learned"] = too_little_learned(rules, learned=learned)
        if moment.step == moment.total_steps:
            causes["never"] = never_began(rules, learned=learned, began=self.began)
        fresh = {cause: words for cause, words in causes.items() if words is not None and cause not in self.waits}
        if "never" in fresh:
            self.waits.pop("learned", None)
        self.waits |= fresh
        return [Say(words) for words in fresh.values()]

    def _decide(self, moment: Moment, measured: Measured) -> Decision | None:
        progress = moment.step / moment.total_steps
        self._cooldown = {kind: left - 1 for kind, left in self._cooldown.items() if left > 1}
        if self.began is None or moment.step == moment.total_steps:
            return None
        match self.rules.births:
            case "none":
                return None
            case "random":
                return at_random(self._living, self.rules, progress=progress, rng=self._rng("decide"))
            case "guided":
                urge = 0.0 if self.urging is None else self.urging.urge
                return review(
                    self._living,
                    self.rules,
                    progress=progress,
                    cooldown=self._cooldown,
                    urge=urge,
                    kinds=kinds_for(measured.tokens),
                )

    def _carry_out(
        self, decision: Decision, model: MultimodalModel, measured: Measured
    ) -> tuple[EditModel, dict[str, Any]]:
        """Return the edit for a decision and what to remember of it."""
        match decision:
            case Add():
                born = self._conceive(model, measured)
                return self._birth(born), {"event": "birth", "name": born.name, "reason": born.reason}
            case Promote(name=name, reason=reason):
                folding = self.measuring.folding(model, name)
                self._change(name, role="member", promoted=self.reviews)
                edit = {"event": "promotion", "name": name, "prior": folding.prior, "gain": folding.gain}
                return _edit(edit, reason), {**edit, "difference": folding.difference, "reason": reason}
            case Retire(name=name, reason=reason):
                self._change(name, role="leaving")
                edit = {"event": "retirement", "name": name}
                return _edit(edit, reason), {**edit, "reason": reason}
            case Prune(name=name, reason=reason):
                life = self.lives[name]
                if life.role == "newcomer" and self.rules.births == "guided":
                    self._cooldown[life.kind] = self.rules.cooldown
                self._change(name, died=self.reviews)
                self._warming.pop(name, None)
                edit = {"event": "pruning", "name": name}
                return _edit(edit, reason), {**edit, "reason": reason}

    def _conceive(self, model: MultimodalModel, measured: Measured) -> Birth:
        rules = self.rules
        if rules.births == "random":
            rules = rules.model_copy(update={"exploit": 0.0})
        return conceive(
            self._living,
            population_of(model).spec,
            measured,
            rules,
            cooldown=self._cooldown,
            dim=model.spec.dim,
            named=tuple(self.lives),
            rng=self._rng("birth"),
            mechanisms=mechanisms_of(model.spec),
        )

    def _birth(self, born: Birth) -> EditModel:
        life = Life(
            name=born.name,
            kind=born.place.member.kind,
            role="newcomer",
            born=self.reviews,
            parent=born.place.parent,
        )
        self.lives[born.name] = life
        if self.rules.warm_up:
            self._warming[born.name] = 0
        edit = {
            "event": "birth",
            "name": born.name,
            "place": born.place.to_dict(),
            "centre": None if born.centre is None else list(born.centre),
            "radius": born.radius,
        }
        return _edit(edit, born.reason)

    def _warm(self) -> list[Action]:
        """Return the learning rates of newcomers one review older: they rise in equal steps."""
        factors: dict[str, float] = {}
        for name in sorted(self._warming):
            self._warming[name] += 1
            factors[f"trunk.members.{name}"] = (1 + self._warming[name]) / (1 + self.rules.warm_up)
        self._warming = {name: age for name, age in self._warming.items() if age < self.rules.warm_up}
        return [ScaleLearningRate(factors)] if factors else []

    def _cold(self, edit: Mapping[str, Any]) -> list[Action]:
        """Return the learning rate that a newcomer begins with."""
        if edit["event"] != "birth" or not self.rules.warm_up:
            return []
        return [ScaleLearningRate({f"trunk.members.{edit['name']}": 1 / (1 + self.rules.warm_up)})]

    def _change(self, name: str, **changes: object) -> None:
        self.lives[name] = self.lives[name].model_copy(update=changes)

    def _rng(self, purpose: str) -> np.random.Generator:
        return numpy_rng(self.seed, "growth", purpose, self.reviews)


def _edit(edit: Mapping[str, Any], reason: str) -> EditModel:
    return EditModel(edit, reason=f"{edit['event']} of {edit['name']}: {reason}")
