"""The training loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from chiasma.core.rng import seed_torch
from chiasma.core.spec import replace_at
from chiasma.data.augment import augmented
from chiasma.data.dataset import Dataset
from chiasma.model.inherit import begin_with
from chiasma.model.multimodal import MultimodalModel
from chiasma.model.published import load_published
from chiasma.store.checkpoint import Checkpoint, load_newest
from chiasma.train.callbacks import (
    Action,
    Callback,
    EditModel,
    Moment,
    Regulate,
    ScaleLearningRate,
    Stop,
    actions_told,
    by_name,
    check_carried_out,
    words_for_watchers,
)
from chiasma.train.design import Design, Plateau
from chiasma.train.devices import Precision, check_precision, environment, pick_device
from chiasma.train.fit import Fit
from chiasma.train.initial import kept_weights
from chiasma.train.learner import Learner, Part, Progressed
from chiasma.train.losses import build_loss, check_whole_batches
from chiasma.train.metrics import primary_metric
from chiasma.train.optim import changeable, frozen
from chiasma.train.order import DataOrder, Slice, evaluation_steps, micro_batches
from chiasma.train.pace import Pace
from chiasma.train.predicting import evaluating
from chiasma.train.progress import StepTaken, TrainingProgress
from chiasma.train.ranks import ALONE, Ranks
from chiasma.train.regulation import Regulation
from chiasma.train.resuming import Frame, restore_callbacks, restore_tensors, save_training, saved_state
from chiasma.train.schedule import after_evaluation, rate_factor
from chiasma.train.state import Identity, Row, TrainingState
from chiasma.train.steering import Steering, learnt_rows, opened, part_for


class Trainer:
    """Trains a design on a dataset; killed at any moment, it continues to the same bits.

    Args:
        design: What to train, and how.
        data: A prepared dataset, its folder, or a source such as a manifest, which is prepared with default settings.
        seed: All randomness follows from it; designs trained with one seed see the same rows in the same order.
        fraction: The part of the design's epochs to train, with schedule and evaluations compressed into it.
        metric: What decides on ``steer``; None for the task's own.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: Of matrix products; weights stay float32.
        compile: Translate the model for the device with ``torch.compile``; bits may differ from those without.
        ranks: The processes that train together. Each sees its part of every batch; rank 0 asks the callbacks, tells
            the others what they say, and saves.
        callbacks: Asked in this order after each step.
        start_from: Weights that this training begins with, wherever name and shape agree, or the folder of a kept
            training that has them.
        checkpoints: Folder to save to and to continue from; None for neither.
        checkpoint_every_seconds: Time between checkpoints.
        deadline: The value of ``time.monotonic()`` by which ``fit`` returns with the best so far.
        progress: Is told how it goes; None keeps quiet.

    Raises:
        ConfigError: Device, precision or metric do not exist, no callback carries out what the design asks for while it
            trains, or a batch has too few rows for all ranks and micro-batches.
        DataError: The dataset has no rows in ``train`` or in ``steer``.
        FileNotFoundError: Nothing was kept in ``start_from``.
        ValueError: ``fraction`` is not in (0, 1], or two callbacks share a name.
    """

    def __init__(
        self,
        design: Design,
        data: Dataset | str | Path,
        *,
        seed: int = 0,
        fraction: float = 1.0,
        metric: str | None = None,
        device: str = "auto",
        precision: Precision = "float32",
        compile: bool = False,
        ranks: Ranks = ALONE,
        callbacks: Sequence[Callback] = (),
        start_from: Path | Mapping[str, Tensor] | None = None,
        checkpoints: Path | None = None,
        checkpoint_every_seconds: float = 60.0,
        deadline: float | None = None,
        progress: TrainingProgress | None = None,
    ) -> None:
        check_precision(precision)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, but fraction={fraction}.")
        self.design = design
        self.data = opened(data, seed=seed)
        self.seed = seed
        self.device = pick_device(device)
        self.precision: Precision = precision
        self.compile = compile
        self.ranks = ranks
        self.callbacks = by_name(callbacks)
        check_carried_out(design.training, self.callbacks)
        self._initial = kept_weights(start_from) if isinstance(start_from, Path) else dict(start_from or {})
        self.checkpoints = checkpoints
        self.checkpoint_every_seconds = checkpoint_every_seconds
        self.deadline = deadline
        self.progress = progress
        metric = primary_metric(self.data.signature.target, metric)
        loop = design.training.loop
        check_whole_batches(self.data.signature.target, accumulation=loop.accumulation, ranks=ranks.size)
        self._steering = Steering(self.data, metric=metric, precision=precision, ranks=ranks)
        self._order = DataOrder(learnt_rows(self.data, loop), batch_size=loop.batch_size, seed=seed)
        self._order.check_shares(loop.accumulation, ranks=ranks.size)
        self.total_steps = max(1, round(loop.epochs * fraction * self._order.steps_per_epoch))
        evaluations = design.training.evaluations_in(fraction)
        self._evaluate_after = evaluation_steps(total_steps=self.total_steps, evaluations=evaluations)
        identity = Identity(
            design=design.content_hash(),
            seed=seed,
            data=self.data.key,
            fraction=fraction,
            metric=metric,
            callbacks=tuple(self.callbacks),
            start=str(start_from) if isinstance(start_from, Path) else ("given weights" if start_from else None),
        )
        here = environment(self.device, precision, ranks=ranks.size)
        self._frame = Frame(identity, here, self.data.signature)
        self._stop_requested: str | None = None

    def fit(self) -> Fit:
        """Train to the end, or until something says to stop; continue from the newest checkpoint if there is one.

        Raises:
            NonFiniteError: A loss, gradient or output is NaN or infinite; the last good checkpoint stays.
            ConfigError: The checkpoint belongs to another training.
            StorageError: A checkpoint cannot be written.
        """
        self._begin()
        while (reason := self._reason_to_stop()) is None:
            self._advance()
            if self._pace.seconds_since_save() >= self.checkpoint_every_seconds:
                self._save()
        self._save()
        self._stop_requested = None
        return self._conclude(reason)

    def request_stop(self, reason: str = "interrupted") -> None:
        """Have ``fit`` save and return after the step it is in; safe to call from a signal handler or a thread."""
        self._stop_requested = reason

    def _begin(self) -> None:
        self._pace = Pace(self.deadline, steps_per_evaluation=len(self._steering.rows) / self._batch_size())
        self._state = TrainingState()
        self._best_weights: dict[str, Tensor] = {}
        self._saved_step: int | None = None
        found = self._newest_checkpoint()
        if found is not None:
            self._state = saved_state(found, self._frame)
            self._saved_step = found.step
        self._learner = self._fresh_learner(published=found is None)
        if found is not None:
            self._best_weights = restore_tensors(found, self._learner, scaler=self._state.scaler)
            restore_callbacks(found, self.callbacks, self._state.callbacks)
        if self.progress is not None:
            self.progress.start(self.total_steps, done=self._state.step, history=self._state.history)

    def _newest_checkpoint(self) -> Checkpoint | None:
        """Return what to continue from; ranks must see the same folder."""
        if self.checkpoints is None:
            return None
        with self.ranks.leader_first():
            found = load_newest(self.checkpoints)
        self.ranks.check_same(f"newest checkpoint in {self.checkpoints}", None if found is None else found.step)
        return found

    def _fresh_learner(self, *, published: bool) -> Learner:
        training = self.design.training
        loss = build_loss(
            training.loop.loss,
            self.data.signature.target,
            class_counts=self.data.class_counts,
            examples=len(self.data.rows("train")),
            labelled=self.data.labelled,
        )
        learner = Learner(
            self._fresh_model(self._state.edits, published=published),
            loss.to(self.device),
            training=training,
            device=self.device,
            precision=self.precision,
            seed=self.seed,
            ranks=self.ranks,
            compile=self.compile,
        )
        learner.optimizer.scale(self._state.factors)
        learner.regulate(Regulation.from_dict(self._state.regulation))
        return learner

    def _fresh_model(self, edits: Sequence[Mapping[str, Any]], *, published: bool) -> MultimodalModel:
        """Return the model as initialised, after callbacks' edits in their order.

        Args:
            edits: What callbacks changed.
            published: Load the weights of pretrained backbones; a checkpoint brings its own.
        """
        seed_torch(self.seed, "init")
        model = self.design.model.build(self.data.signature)
        if published:
            load_published(model)
        begin_with(model, self._initial)
        for position, entry in enumerate(edits):
            seed_torch(self.seed, "edit", position)
            self.callbacks[entry["callback"]].edit_model(model, entry["edit"])
        return model.to(self.device)

    def _reason_to_stop(self) -> str | None:
        own = self._state.stopped or self._stop_requested or ("deadline" if self._pace.is_late() else None)
        return self.ranks.first(own)

    def _advance(self) -> None:
        """Take one step, evaluate if it is time, and do what callbacks ask."""
        state = self._state
        optim = self.design.training.optim
        rate = optim.lr * state.plateau.factor * rate_factor(optim, step=state.step, total_steps=self.total_steps)
        done = self._step(rate)
        row = self._evaluate(rate) if state.step in self._evaluate_after else None
        for name, callback in self.callbacks.items():
            moment = self._moment(done, rate=rate, metrics=row)
            for action in actions_told(callback, moment, self.ranks):
                self._act(action, callback=name)
        if state.step == self.total_steps and state.stopped is None:
            state.stopped = "finished"

    def _step(self, rate: float) -> Progressed:
        state, accumulation = self._state, self.design.training.loop.accumulation
        with self._pace.timed("step"):
            rows = self._order.batch(state.step)
            slices = micro_batches(rows, accumulation, rank=self.ranks.rank, ranks=self.ranks.size)
            progress = state.step / self.total_steps
            done = self._learner.learn(
                self._varied(slices), examples=len(rows), step=state.step, rate=rate, progress=progress
            )
        state.step += 1
        state.loss_sum += done.loss
        state.loss_steps += 1
        if self.progress is not None:
            self.progress.advance(self._taken(done, examples=len(rows), rate=rate))
        return done

    def _evaluate(self, rate: float) -> Row:
        """Measure on ``steer``, keep the weights if they are the best, and decide what follows from the score."""
        state, loop = self._state, self.design.training.loop
        self.ranks.share_buffers(self._learner.model)
        with self._pace.timed("evaluation"), self._learner.evaluated_weights() as model:
            row = self._measured(rate)
            score = self._steering.score(row)
            if state.best is None or score > self._steering.score(state.best):
                self._best_weights = changeable(model)
                state.best, state.best_edits, state.stale = row, len(state.edits), 0
                state.best_regulation = state.regulation
            else:
                state.stale += 1
        state.history.append(row)
        state.loss_sum, state.loss_steps = 0.0, 0
        schedule = self.design.training.optim.schedule
        if isinstance(schedule, Plateau):
            state.plateau = after_evaluation(state.plateau, score=score, rules=schedule)
        if loop.patience is not None and state.stale >= loop.patience:
            state.stopped = "early"
        if self.progress is not None:
            self.progress.evaluated(row, metric=self._steering.metric)
        return row

    def _measured(self, rate: float) -> Row:
        state, model = self._state, self._learner.model
        logits = self._steering.logits(model)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            bad = self._steering.rows[~finite][:1]
            with evaluating(model):
                raise self._learner.explain([self._part(bad)], step=state.step)
        return {
            "step": state.step,
            "epoch": state.step / self._order.steps_per_epoch,
            "rate": rate,
            "train_loss": state.loss_sum / max(1, state.loss_steps),
            **self._steering.metrics(logits),
        }

    def _taken(self, done: Progressed, *, examples: int, rate: float) -> StepTaken:
        return StepTaken(
            step=self._state.step,
            epoch=self._state.step / self._order.steps_per_epoch,
            examples=examples,
            loss=done.loss,
            gradient_norm=done.gradient_norm,
            rate=rate,
        )

    def _moment(self, done: Progressed, *, rate: float, metrics: Row | None) -> Moment:
        return Moment(
            step=self._state.step,
            total_steps=self.total_steps,
            epoch=self._state.step / self._order.steps_per_epoch,
            loss=done.loss,
            gradient_norm=done.gradient_norm,
            rate=rate,
            metrics=metrics,
            history=tuple(self._state.history),
            model=self._learner.model,
        )

    def _act(self, action: Action, *, callback: str) -> None:
        state = self._state
        match action:
            case EditModel(edit=edit):
                seed_torch(self.seed, "edit", len(state.edits))
                self.callbacks[callback].edit_model(self._learner.model, edit)
                state.edits.append({"callback": callback, "edit": dict(edit), "step": state.step})
                self._learner.rekey()
                state.factors = dict(self._learner.optimizer.factors)
            case ScaleLearningRate(factors=factors):
                state.factors.update(factors)
                self._learner.optimizer.scale(state.factors)
            case Regulate(regulation=regulation):
                state.regulation = regulation.to_dict()
                self._learner.regulate(regulation)
            case Stop(reason=reason):
                state.stopped = reason
        if self.progress is not None and (words := words_for_watchers(action)):
            self.progress.edited(words, step=state.step)

    def _save(self) -> None:
        state = self._state
        if self.checkpoints is None or self._saved_step == state.step or not self.ranks.leads:
            return
        state.scaler = self._learner.scaler.state_dict()
        state.callbacks = {name: dict(callback.state_dict()) for name, callback in self.callbacks.items()}
        state.seconds += self._pace.take_seconds()
        with self._pace.timed("save"):
            save_training(
                self.checkpoints,
                self._frame,
                design=replace_at(self.design, "model", self._learner.model.spec),
                state=state,
                learner=self._learner,
                best=self._best_weights,
                callbacks=self.callbacks,
            )
        self._saved_step = state.step

    def _conclude(self, reason: str) -> Fit:
        """Put the weights that are to be used into the model."""
        state, loop = self._state, self.design.training.loop
        unmeasured = state.best is None and state.step and not loop.train_on_steer
        if unmeasured and self.ranks.every(self._pace.can_evaluate()):
            self._evaluate(self.design.training.optim.lr)
        model = self._learner.model
        if loop.restore_best and state.best is not None:
            if state.best_edits != len(state.edits):
                model = self._fresh_model(state.edits[: state.best_edits], published=False)
            model.load_state_dict({**frozen(self._learner.model), **self._best_weights}, strict=True)
            model.modulate(Regulation.from_dict(state.best_regulation).gates)
        elif self._learner.average is not None:
            self._learner.average.keep(model)
        if self.progress is not None:
            self.progress.finish(reason)
        return Fit(
            model=model.eval(),
            history=state.history,
            steps=state.step,
            seconds=state.seconds + self._pace.take_seconds(),
            stopped=reason,
            best=state.best or {},
            callbacks={name: callback.state_dict() for name, callback in self.callbacks.items()},
        )

    def _part(self, rows: np.ndarray) -> Part:
        return part_for(self._learner.model, self.data, rows, device=self.device)

    def _varied(self, slices: Sequence[Slice]) -> Sequence[Part]:
        """Return the micro-batches of the step that is due, augmented."""
        spec, parts = self.design.training.loop.augment, [self._part(each.rows) for each in slices]
        starts, given = [each.start for each in slices], [batch for batch, _ in parts]
        seen = self.data.signature
        batches = augmented(given, spec, seen, seed=self.seed, step=self._state.step, starts=starts)
        return [(batch, labels) for batch, (_, labels) in zip(batches, parts, strict=True)]

    def _batch_size(self) -> int:
        return self.design.training.loop.batch_size
