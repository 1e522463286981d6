"""The double loop: an LSTM sets a training while it runs, and learns from what is then measured on ``steer``."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chiasma.adapt.clock import Clock, thinned
from chiasma.adapt.controls import NAMES, STRUCTURE, in_use, moved, regulation, words
from chiasma.adapt.learned import Card, Knowledge
from chiasma.adapt.measure import constant_loss, losses
from chiasma.adapt.policy import ActorCritic, Lesson, within
from chiasma.adapt.signals import Normaliser, Smoothed, logarithm, signals
from chiasma.adapt.slopes import Slope, Slopes
from chiasma.core.rng import numpy_rng
from chiasma.data.dataset import Dataset
from chiasma.train.callbacks import Action, Moment, Regulate, TensorCallback
from chiasma.train.controlling import LSTMController
from chiasma.train.design import Design
from chiasma.train.devices import Precision
from chiasma.train.pace import FORWARD_SHARE_OF_STEP
from chiasma.train.predicting import predict_logits

NAME = "controller"
# A reward is in usual improvements; the worst that a roll-back can teach is this many of them.
LARGEST_REWARD = 3.0
SMALLEST_SCALE = 1e-3
SCALE_MEMORY = 0.9
LONGEST_REST = 8
# Train losses of a step vary; a rise of their average counts beyond so many of their usual deviations.
DEVIATIONS = 3.0


class Controller(TensorCallback):
    """Looks every few steps, acts, and is rewarded by how much the loss on a sample of ``steer`` falls until the next.

    Args:
        spec: How.
        design: What is trained.
        data: Whose ``steer`` split is sampled.
        seed: Of the training.
        precision: Of matrix products.
        known: What it begins with; None for nothing.

    Attributes:
        settings: Where it is, by name; 0 is neutral.
        every: Steps between decisions.
        trace: What it did, in points of a curve.
        returns: Its roll-backs: step and reason.
    """

    name = NAME

    def __init__(
        self,
        spec: LSTMController,
        design: Design,
        data: Dataset,
        *,
        seed: int,
        precision: Precision = "float32",
        known: Knowledge | None = None,
    ) -> None:
        self.spec = spec
        self.seed = seed
        self.data = data
        self.precision: Precision = precision
        self.peak = design.training.optim.lr
        self.rows = _sample(data, spec.sample, seed=seed)
        self.every = interval(spec, sample=len(self.rows), batch_size=design.training.loop.batch_size)
        self.level = constant_loss(data.labels(self.rows), data.signature.target)
        names = in_use(spec, design.model, grows=design.training.growth is not None)
        self.settings: dict[str, float] = dict.fromkeys(names, 0.0)
        self.critic = ActorCritic(spec, names, seed=seed)
        self.normalise = Normaliser()
        self.scale = 0.0
        self.runs = 0
        if known is not None:
            self.critic.load(known.tensors)
            self.normalise = Normaliser(known.card.normal)
            self.scale, self.runs = known.card.scale, known.card.runs
        self.slopes = Slopes()
        self.seconds = Clock()
        self._begin()

    def _begin(self) -> None:
        """Remember nothing of any training."""
        self.trace: list[dict[str, float]] = []
        self.returns: list[dict[str, Any]] = []
        self._memory = self._begun = self.critic.policy.fresh_memory()
        self._inputs: list[list[float]] = []
        self._actions: list[list[float]] = []
        self._rewards: list[float] = []
        self._past: list[dict[str, float]] = []
        self._seen: dict[str, Slope] = {}
        self._smoothed = Smoothed()
        self._train_before: float | None = None
        self._loss_before: float | None = None
        self._pending = False
        self._reward = 0.0
        self._resting = 0
        self._rest = 1
        self._decisions = 0

    @property
    def urge(self) -> float:
        """Return how eager the population is to be, from -1 for fewer members to 1 for more; 0 says nothing."""
        return self.settings.get(STRUCTURE, 0.0)

    @property
    def knowledge(self) -> Knowledge:
        """Return what was learned, to begin another training with."""
        card = Card(
            hidden=self.spec.hidden,
            layers=self.spec.layers,
            normal={name: tuple(values) for name, values in self.normalise.to_dict().items()},
            scale=self.scale,
            runs=self.runs,
        )
        return Knowledge(card, {name: value.clone() for name, value in self.critic.tensors().items()})

    def review(self, moment: Moment) -> Sequence[Action]:
        """Watch every step; decide at the end of each interval; roll back as soon as the loss has risen."""
        with self.seconds.computing(moment):
            self._watch(moment)
            if self._pending and (reason := self._rise_in_training()) is not None:
                return [self._roll_back(reason, moment, loss=None)]
            if moment.step % self.every or moment.step == moment.total_steps:
                return ()
            return self._decide(moment)

    def edit_model(self, model: nn.Module, edit: Mapping[str, Any]) -> None:
        """Never asked for: it only regulates."""
        raise AssertionError(f"{self.name} proposes no edits, but was given {dict(edit)}.")

    def _watch(self, moment: Moment) -> None:
        """Take note of the train loss, and of the slopes at the end of each interval."""
        self._smoothed.add(moment.loss)
        found = self.slopes.look(moment.model, left=-moment.step % self.every, period=self.every)
        if found is not None:
            self._seen = found

    def _rise_in_training(self) -> str | None:
        """Return why the smoothed train loss says that the last action was bad, or None."""
        if self._train_before is None:
            return None
        now, before = self._smoothed.value, self._train_before
        if now <= before * (1 + self.spec.limit) + DEVIATIONS * self._smoothed.deviation:
            return None
        return f"the train loss rose from {before:.3f} to {now:.3f}"

    def _decide(self, moment: Moment) -> Sequence[Action]:
        """Measure, account for the last action, and act again."""
        loss = self._measure(moment)
        before = self._loss_before
        trend = logarithm(loss) - logarithm(before) if before is not None and math.isfinite(loss) else 0.0
        if before is not None and not loss <= before * (1 + self.spec.limit):
            if self._pending or self._past:
                return [self._roll_back(f"the loss on steer rose from {before:.3f} to {loss:.3f}", moment, loss=loss)]
        elif self._pending:
            self._account(-trend)
            self._rest = max(1, self._rest // 2)
        if self._resting:
            self._resting -= 1
            self._note(moment, loss)
            return ()
        self._loss_before = loss if math.isfinite(loss) else before
        inputs = self._look(moment, loss=loss, trend=trend)
        if len(self._rewards) >= self.spec.window:
            self._learn(inputs)
        action = self._act(inputs)
        self._past = [*self._past[-self.spec.window :], dict(self.settings)]
        self.settings = moved(self.settings, action, self.spec)
        self._train_before = self._smoothed.value
        self._note(moment, loss)
        return [Regulate(regulation(self.settings, self.spec))]

    def _look(self, moment: Moment, *, loss: float, trend: float) -> list[float]:
        now = self._smoothed.value
        return signals(
            moment,
            slopes=self._seen,
            loss=loss,
            trend=trend,
            train=(now, self._train_before if self._train_before is not None else now),
            level=self.level,
            peak=self.peak,
            reward=self._reward,
            settings=self.settings,
            normalise=self.normalise,
        )

    def _act(self, inputs: list[float]) -> list[float]:
        """Return what to do, tried out around what the policy thinks best where it learns."""
        if not self._inputs:
            self._begun = self._memory
        means, spreads, self._memory = self.critic.decide(inputs, self._memory)
        self._decisions += 1
        self._pending = True
        if not self.spec.learns:
            return means
        rng = numpy_rng(self.seed, "controller", "explore", self._decisions)
        drawn = rng.standard_normal(len(NAMES))
        action = [mean + spread * float(each) for mean, spread, each in zip(means, spreads, drawn, strict=True)]
        self._inputs.append(inputs)
        self._actions.append(action)
        return action

    def _account(self, improvement: float) -> None:
        """Reward the last action by how much the logarithm of the loss fell, in usual improvements."""
        square = min(improvement**2, 1.0)
        self.scale = square if self.scale == 0 else SCALE_MEMORY * self.scale + (1 - SCALE_MEMORY) * square
        self._rewarded(improvement / max(math.sqrt(self.scale), SMALLEST_SCALE))

    def _rewarded(self, reward: float) -> None:
        self._reward = min(LARGEST_REWARD, max(-LARGEST_REWARD, reward))
        self._pending = False
        if self.spec.learns:
            self._rewards.append(self._reward)

    def _learn(self, following: list[float] | None) -> None:
        """Learn from the decisions that were rewarded, and forget them."""
        if self._rewards:
            self.critic.learn(Lesson(self._inputs, self._actions, self._rewards, following, self._begun))
        self._inputs, self._actions, self._rewards = [], [], []

    def _roll_back(self, reason: str, moment: Moment, *, loss: float | None) -> Regulate:
        """Return to the settings before the last action, teach that it was bad, and rest, longer each time.

        Where the loss goes on rising while it rests, the action before that one is taken back too.
        """
        if self._pending:
            self._rewarded(-LARGEST_REWARD)
            self._learn(None)
        self.settings = self._past.pop()
        self._resting, self._rest = self._rest, min(LONGEST_REST, 2 * self._rest)
        self._train_before = None
        self.returns.append({"step": moment.step, "reason": reason})
        self._note(moment, loss)
        return Regulate(regulation(self.settings, self.spec), reason=f"controller rolls back: {reason}")

    def _measure(self, moment: Moment) -> float:
        """Return the mean loss on the sample of steer."""
        started = time.perf_counter()
        logits = predict_logits(moment.model, self.data, self.rows, precision=self.precision)
        each = losses(torch.from_numpy(logits), self.data.labels(self.rows), self.data.signature.target)
        self.seconds.add("measuring", time.perf_counter() - started)
        return float(each.double().mean())

    def _note(self, moment: Moment, loss: float | None) -> None:
        """Leave a point for the report's curves."""
        known = {} if loss is None or not math.isfinite(loss) else {"loss": loss}
        self.trace = thinned([*self.trace, {"step": moment.step, **known, **words(self.settings, self.spec)}])

    def state_dict(self) -> Mapping[str, Any]:
        """Return everything but tensors."""
        return {
            "settings": dict(self.settings),
            "past": [dict(each) for each in self._past],
            "window": {"inputs": self._inputs, "actions": self._actions, "rewards": self._rewards},
            "seen": {name: [each.product, each.cosine] for name, each in self._seen.items()},
            "smoothed": self._smoothed.to_dict(),
            "before": [self._train_before, self._loss_before],
            "counts": [self._decisions, self._resting, self._rest, self.runs],
            "pending": self._pending,
            "reward": self._reward,
            "scale": self.scale,
            "normal": self.normalise.to_dict(),
            "moved": self.slopes.moved,
            "trace": [dict(each) for each in self.trace],
            "returns": [dict(each) for each in self.returns],
            "every": self.every,
            "seconds": self.seconds.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.settings = dict(state["settings"])
        self._past = [dict(each) for each in state["past"]]
        window = state["window"]
        self._inputs = [list(each) for each in window["inputs"]]
        self._actions = [list(each) for each in window["actions"]]
        self._rewards = list(window["rewards"])
        self._seen = {name: Slope(*values) for name, values in state["seen"].items()}
        self._smoothed = Smoothed(state["smoothed"])
        self._train_before, self._loss_before = state["before"]
        self._decisions, self._resting, self._rest, self.runs = state["counts"]
        self._pending, self._reward, self.scale = state["pending"], state["reward"], state["scale"]
        self.normalise = Normaliser(state["normal"])
        self.slopes.load({}, moved=state["moved"])
        self.trace = [dict(each) for each in state["trace"]]
        self.returns = [dict(each) for each in state["returns"]]
        self.seconds = Clock(state["seconds"])

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the network with its moments, its memory, and what is held of the weights."""
        memory = {"now/h": self._memory[0], "now/c": self._memory[1], "begun/h": self._begun[0]}
        held = {f"held/{name}": value for name, value in self.slopes.tensors().items()}
        return {**self.critic.tensors(), **memory, "begun/c": self._begun[1], **held}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`tensors`."""
        self.critic.load(tensors)
        now, begun = within(tensors, "now"), within(tensors, "begun")
        self._memory, self._begun = (now["h"], now["c"]), (begun["h"], begun["c"])
        self.slopes.load(within(tensors, "held"), moved=self.slopes.moved)


def interval(spec: LSTMController, *, sample: int, batch_size: int) -> int:
    """Return the steps between decisions: those of the settings, or more where measuring would cost more than allowed.

    The cost is counted in examples, each forward pass as half a step's work on one: a decision of the clock's would be
    another one when the training is resumed, or on another rank. What is bounded is work, not waiting: where R ranks
    train, each has an R-th of a step's examples, but rank 0 measures all of the sample while the others wait, so that
    the share of the wall time may be R times the one allowed.
    """
    cost = FORWARD_SHARE_OF_STEP * sample / batch_size
    return max(spec.every, math.ceil(cost / spec.share))


def _sample(data: Dataset, count: int, *, seed: int) -> np.ndarray:
    """Return the rows of steer that are measured, the same ones throughout a training."""
    rows = data.rows("steer")
    if len(rows) <= count:
        return rows
    return np.sort(numpy_rng(seed, "controller", "sample").choice(rows, count, replace=False))
