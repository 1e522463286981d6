"""A model with everything that changes while it learns, and one optimiser step."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chiasma.core.errors import NonFiniteError
from chiasma.core.rng import seed_torch
from chiasma.data.batch import Batch, Output
from chiasma.model.multimodal import MultimodalModel
from chiasma.model.recompute import recompute_activations
from chiasma.train.compiling import check_compiled, compiled, compiler_errors
from chiasma.train.design import TrainingSpec
from chiasma.train.devices import Precision, autocast, gradient_scaler
from chiasma.train.ema import AverageWeights
from chiasma.train.finite import explain_gradient, explain_loss, first_non_finite
from chiasma.train.losses import Loss
from chiasma.train.optim import NamedOptimizer
from chiasma.train.ranks import ALONE, Ranks
from chiasma.train.regulation import Dropouts, Regulation
from chiasma.train.unfreezing import Sleepers

# Below this loss scale float16 gradients overflow because they are wrong, not because the scale is too great.
SMALLEST_SCALE = 1.0

Part = tuple[Batch, Tensor]


@dataclass(frozen=True)
class Progressed:
    """What one step came to: mean loss, and norm of the gradient before clipping."""

    loss: float
    gradient_norm: float


class Learner:
    """Model, optimiser, averaged weights and loss scaler.

    Args:
        model: On ``device``.
        loss: On ``device``.
        training: How to optimise.
        device: Where to compute.
        precision: Of matrix products.
        seed: The seed of the training; each step's randomness follows from it.
        ranks: The processes that share each step.
        compile: Translate the model for the device (``torch.compile``) before its first step and after each edit.

    Raises:
        ConfigError: A controller would change what is compiled at each of its decisions.
    """

    def __init__(
        self,
        model: MultimodalModel,
        loss: Loss,
        *,
        training: TrainingSpec,
        device: torch.device,
        precision: Precision,
        seed: int,
        ranks: Ranks = ALONE,
        compile: bool = False,
    ) -> None:
        if compile:
            check_compiled(training.controller)
        recompute_activations(model, training.loop.recompute)
        self.model = model
        self.loss = loss
        self.training = training
        self.device = device
        self.precision: Precision = precision
        self.seed = seed
        self.optimizer = NamedOptimizer(model, training.optim)
        self.dropouts = Dropouts(model)
        self.average = AverageWeights(model, training.loop.ema) if training.loop.ema else None
        self.scaler = gradient_scaler(device, precision)
        self.ranks = ranks
        self.compile = compile
        self._sleepers = Sleepers(model, training.loop.unfreeze, alone=ranks.size == 1)
        self._wrap()

    def learn(
        self, parts: Sequence[Part], *, examples: int, step: int, rate: float, progress: float = 1.0
    ) -> Progressed:
        """Take one optimiser step over micro-batches.

        Args:
            parts: Inputs and labels of each micro-batch on the device; each counts by its number of examples.
            examples: Of the whole step, over all ranks.
            step: Counted from 0; decides the step's randomness.
            rate: Learning rate.
            progress: The part of the training that is over, by which layers of pretrained encoders still sleep.

        Raises:
            NonFiniteError: Loss or gradient is NaN or infinite; the weights are as before the step.
            CompileError: The model could not be compiled.
        """
        self._seed(step)
        self.optimizer.set_rate(rate)
        self.optimizer.zero_grad()
        own = torch.zeros((), device=self.device)
        with self._sleepers.asleep(progress):
            for number, (batch, labels) in enumerate(parts, start=1):
                last = number == len(parts)
                with self.ranks.accumulating(self._wrapped, last=last), self._compiler_errors():
                    # Ranks take the mean of their gradients: each counts its examples as many times as there are.
                    share = self._loss(batch, labels, through=self._forward) * (self.ranks.size * len(batch) / examples)
                    self.scaler.scale(share).backward()
                own += share.detach()
        self.scaler.unscale_(self.optimizer.algorithm)
        gradients = self.optimizer.gradients()
        norm = torch.nn.utils.get_total_norm(gradients)
        done = Progressed(float(self.ranks.mean(own)), float(norm))
        self._check(done, parts, step=step, own=own)
        clip = self.training.optim.clip
        if clip is not None and done.gradient_norm > clip:
            torch.nn.utils.clip_grads_with_norm_(self.optimizer.parameters.values(), clip, norm)
        self.scaler.step(self.optimizer.algorithm)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model, updates=step)
        return done

    @contextmanager
    def evaluated_weights(self) -> Iterator[nn.Module]:
        """Lend the model with the weights that are evaluated and kept: the averages where there are any."""
        if self.average is None:
            yield self.model
        else:
            with self.average.applied(self.model):
                yield self.model

    def regulate(self, regulation: Regulation) -> None:
        """Set rates, weight decay, dropout and gates, in place of what was set before."""
        self.optimizer.regulate(regulation)
        self.dropouts.scale(regulation.dropout)
        self.model.modulate(regulation.gates)

    def rekey(self) -> None:
        """Follow an edit of the model: device, optimiser state and averages by parameter name; wrapped anew.

        Raises:
            RanksDifferError: The edit was another one on another rank.
        """
        self.model.to(self.device)
        self._wrap()
        self.optimizer = self.optimizer.rekeyed(self.model)
        self._sleepers = Sleepers(self.model, self.training.loop.unfreeze, alone=self.ranks.size == 1)
        self.dropouts.follow(self.model)
        if self.average is not None:
            self.average = self.average.rekeyed(self.model)

    def explain(self, parts: Sequence[Part], *, step: int) -> NonFiniteError:
        """Return an error that names what made the loss of these micro-batches NaN or infinite."""

        def repeat() -> None:
            self._seed(step)
            for batch, labels in parts:
                self._loss(batch, labels, through=self.model)

        return explain_loss(self.model, parts, repeat=repeat, step=step)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Return the groups of tensors of a checkpoint.

        Raises:
            NonFiniteError: A weight is NaN or infinite; such a checkpoint is never written.
        """
        model = self.model.state_dict()
        bad = first_non_finite(model)
        if bad is not None:
            raise NonFiniteError(f"Parameter {bad} holds a NaN or an infinity, so no checkpoint is written.")
        groups: dict[str, Mapping[str, Tensor]] = {"model": model, "optimizer": self.optimizer.state()}
        if self.average is not None:
            groups["ema"] = self.average.average
        return groups

    def load(self, groups: Mapping[str, Mapping[str, Tensor]], *, scaler: Mapping[str, Any]) -> None:
        """Continue from :meth:`tensors` and the scaler's state; strict."""
        self.model.load_state_dict(groups["model"], strict=True)
        self.optimizer.load_state(groups["optimizer"])
        if self.average is not None:
            self.average.load_state(groups["ema"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(scaler))

    def _wrap(self) -> None:
        """Make what a training step calls: the model, told of other ranks, compiled."""
        self._wrapped = self.ranks.wrapped(self.model)
        self._forward: Callable[..., Any] = compiled(self._wrapped) if self.compile else self._wrapped

    def _compiler_errors(self) -> AbstractContextManager[None]:
        return compiler_errors() if self.compile else nullcontext()

    def _seed(self, step: int) -> None:
        seed_torch(self.seed, "step", step, *self.ranks.path)

    def _loss(self, batch: Batch, labels: Tensor, *, through: Callable[[Batch], Output]) -> Tensor:
        with autocast(self.device, self.precision):
            output = through(batch)
        weighing = () if output.log_variances is None else (output.log_variances,)
        loss = self.loss(output.logits, labels, *weighing)
        return loss if output.penalty is None else loss + output.penalty

    def _check(self, done: Progressed, parts: Sequence[Part], *, step: int, own: Tensor) -> None:
        if not math.isfinite(done.loss):
            # The rank whose own loss is at fault can say what it was.
            said = None if math.isfinite(float(own)) else str(self.explain(parts, step=step))
            raise NonFiniteError(self.ranks.first(said) or f"Step {step}: the loss holds a NaN or an infinity.")
        overflowed = self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE
        if not math.isfinite(done.gradient_norm) and not overflowed:
            raise explain_gradient(self.model, step=step)
