"""The hand-written space of whole designs, for every kind of data that the library reads."""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from chiasma.core.errors import ChiasmaError
from chiasma.core.spec import Spec, replace_at
from chiasma.data.signature import Signature
from chiasma.model.multimodal import FUSED, ModelSpec
from chiasma.model.tokens import starves, with_every_token, with_open_encoders
from chiasma.search import choices
from chiasma.search.choices import other, pick, words
from chiasma.train.design import Design, GrowthSpec, LoopSpec, OptimSpec, Plateau, TrainingSpec

VISITS = 150_000  # Examples seen in an ordinary training: some minutes on one core at most.
TRIES = 50
REVIEWS = 20  # Fewer, and no member of a growing trunk is born, tried and judged in time.

Edit = Callable[[Design, np.random.Generator], tuple[Design, str]]


class DesignSpace:
    """Samples, edits and crosses designs that build and train on data of one signature.

    It spans encoders, fusion, head, width, optimiser and loop. Known to work on two cores and inside: a small
    convolutional stem with an n-gram bag or a small BERT and multiplicative fusion, cross-attention, and cheap linear
    models.

    Args:
        signature: What the data looks like.
        train_rows: Examples in the train split; it bounds the batch size.
        training: Where what is not searched comes from, and the usual number of epochs; None for one that suits the
            number of examples.

    Raises:
        ValueError: ``train_rows`` is below one.
    """

    def __init__(self, signature: Signature, *, train_rows: int, training: TrainingSpec | None = None) -> None:
        if train_rows < 1:
            raise ValueError(f"train_rows must be at least 1, but got {train_rows}.")
        self.signature = signature
        self.training = training or usual_training(train_rows)
        self._encoders = {name: choices.encoder_part(signature.inputs[name]) for name in modalities(signature)}
        self._head = choices.head_part(signature.target)
        self._losses = choices.loss_choices(signature.target)
        self._batch_sizes = [size for size in choices.BATCH_SIZES if size <= max(32, train_rows // 16)]

    def sample(self, rng: np.random.Generator) -> Design:
        """Return a random design over all modalities of the data."""
        encoders = {name: part.sample(rng) for name, part in self._encoders.items()}
        fusion = choices.FUSION.sample(rng) if len(encoders) > 1 else None
        model = _model(pick(choices.DIMS, rng), encoders, fusion, self._head.sample(rng))
        if model.fusion is not None and model.fusion.every_token:
            model = with_open_encoders(model)[0]
        return Design(model=model, training=self._sample_training(rng))

    def mutate(self, genome: Design, rng: np.random.Generator) -> tuple[Design, str]:
        """Return the design with one part edited, and the edit in words: ``fusion: concat -> multiplicative``.

        Raises:
            ValueError: No edit of this design can be built; the last reason is given.
        """
        edits = self._edits(genome)
        weights = np.array([weight for weight, _ in edits])
        reason = None
        for _ in range(TRIES):
            edit = edits[int(rng.choice(len(edits), p=weights / weights.sum()))][1]
            try:
                edited, description = edit(genome, rng)
            except (ChiasmaError, ValidationError) as error:
                reason = str(error)
                continue
            reason = self.validate(edited) or starves(edited.model, genome.model, self.signature)
            if reason is None and edited != genome:
                return edited, description
        raise ValueError(f"No edit of design {genome.content_hash()} can be built after {TRIES} tries: {reason}.")

    def crossover(self, first: Design, second: Design, rng: np.random.Generator) -> Design:
        """Return a design that has each part from one of the two; the modalities and the fusion are the first one's.

        Where the parts do not fit together, the first design with the second one's training settings.
        """

        def either(one: Any, two: Any) -> Any:
            return one if rng.random() < 0.5 else two

        encoders = {n: either(e, second.model.encoders.get(n, e)) for n, e in first.model.encoders.items()}
        both_fuse = first.model.fusion is not None and second.model.fusion is not None
        fusion = either(first.model.fusion, second.model.fusion) if both_fuse else first.model.fusion
        dim = either(first.model.dim, second.model.dim)
        model = first.model.to_dict() | _plain(
            {"dim": dim, "encoders": encoders, "fusion": fusion, "head": either(first.model.head, second.model.head)}
        )
        optim = either(first.training.optim, second.training.optim)
        loop = either(first.training.loop, second.training.loop)
        rules = first.training.growth
        calm = second.training.model_copy(update={"growth": None})
        fallback = growing(Design(model=first.model, training=calm), rules)
        try:
            training = TrainingSpec(optim=optim, loop=loop)
            fitting = _fit_for_trunk(ModelSpec.from_dict(model))[0]
            crossed = growing(Design(model=fitting, training=training), rules)
        except (ChiasmaError, ValidationError):
            return fallback
        fault = self.validate(crossed) or starves(crossed.model, first.model, self.signature)
        return crossed if fault is None else fallback

    def validate(self, genome: Design) -> str | None:
        """Return why the design cannot be built for this data, or None."""
        try:
            genome.model.check(self.signature)
        except (ChiasmaError, ValueError) as error:
            return str(error)
        return None

    def lower(self, genome: Design, incumbent: Design) -> Design:
        """Return the genome itself: it is a whole design already."""
        del incumbent
        return genome

    def _edits(self, design: Design) -> list[tuple[float, Edit]]:
        """Return every kind of edit that applies to a design, with its weight."""
        edits: list[tuple[float, Edit]] = [(1.0, self._edit_head), (1.0, self._edit_dim), (4.0, self._edit_training)]
        edits += [(2.0, self._encoder_edit(name)) for name in design.model.encoders if name in self._encoders]
        if design.model.fusion is not None:
            edits.append((3.0, self._edit_fusion))
        absent = [name for name in self._encoders if name not in design.model.encoders]
        edits += [(3.0, self._addition(name)) for name in absent if len(design.model.encoders) == 1]
        return edits

    def _encoder_edit(self, name: str) -> Edit:
        def edit(design: Design, rng: np.random.Generator) -> tuple[Design, str]:
            spec, description = self._encoders[name].edit(design.model.encoders[name], rng)
            return replace_at(design, f"model.encoders.{name}", spec), f"{name} encoder: {description}"

        return edit

    def _addition(self, name: str) -> Edit:
        def edit(design: Design, rng: np.random.Generator) -> tuple[Design, str]:
            encoders = {**design.model.encoders, name: self._encoders[name].sample(rng)}
            fusion = choices.FUSION.sample(rng)
            model = _model(design.model.dim, encoders, fusion, design.model.head)
            model = _fit_for_trunk(model.model_copy(update={"trunk": design.model.trunk}))[0]
            description = f"modalities: {name} added ({words(encoders[name])}, {words(fusion)} fusion)"
            return Design(model=model, training=design.training), description

        return edit

    def _edit_fusion(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        fusion, description = choices.FUSION.edit(design.model.fusion, rng)
        edited = replace_at(design, "model.fusion", fusion)
        description = f"fusion: {description}"
        assert edited.model.fusion is not None
        if words(fusion) == words(design.model.fusion):
            return edited, description
        model, opened = _fit_for_trunk(edited.model)
        if edited.model.fusion.every_token:
            model, closed = with_open_encoders(model)
            opened = [*opened, *closed]
        opened = [name for name in opened if name != "fusion"]
        note = f" (all tokens of {' and '.join(opened)})" if opened else ""
        return Design(model=model, training=design.training), description + note

    def _edit_head(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        head, description = self._head.edit(design.model.head, rng)
        return replace_at(design, "model.head", head), f"head: {description}"

    def _edit_dim(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        dim = other(choices.DIMS, design.model.dim, rng)
        return replace_at(design, "model.dim", dim), f"dim: {design.model.dim} -> {dim}"

    def _edit_training(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        optim, loop = design.training.optim, design.training.loop
        epochs = [self._epochs(multiple) for multiple in choices.EPOCH_MULTIPLES]
        plain: dict[str, tuple[Any, list[Any]]] = {
            "optim.weight_decay": (optim.weight_decay, list(choices.WEIGHT_DECAYS)),
            # Warm-up that is counted in steps is the user's.
            **({} if optim.warmup_steps is not None else {"optim.warmup": (optim.warmup, list(choices.WARMUPS))}),
            "loop.batch_size": (loop.batch_size, self._batch_sizes),
            "loop.epochs": (loop.epochs, epochs),
            "loop.ema": (loop.ema, list(choices.EMAS)),
            "loop.loss": (loop.loss, list(self._losses)),
        }
        undecided = loop.patience is None and not isinstance(optim.schedule, Plateau)
        undecided = undecided and design.training.growth is None
        open_paths = ["loop.steer"] if undecided else []
        open_paths += ["loop.augment"] if self._augmentations(design) else []
        open_paths += [path for path, (now, values) in plain.items() if any(value != now for value in values)]
        path = pick(["optim.lr", "optim.lr", "optim.algorithm", "optim.schedule", *open_paths], rng)
        if path == "optim.lr":
            lr = _rounded(optim.lr * math.exp(rng.choice([-1, 1]) * rng.uniform(math.log(1.4), math.log(4.0))))
            return replace_at(design, "training.optim.lr", lr), f"training: lr {words(optim.lr)} -> {words(lr)}"
        if path == "optim.algorithm":
            return self._edit_algorithm(design, rng)
        if path == "optim.schedule":
            schedule, description = choices.SCHEDULES.edit(optim.schedule, rng)
            return replace_at(design, "training.optim.schedule", schedule), f"training: schedule {description}"
        if path == "loop.steer":
            after = learning_from_steer(loop, not loop.train_on_steer)
            words_of = {False: "held out", True: "learned from"}
            change = f"{words_of[loop.train_on_steer]} -> {words_of[after.train_on_steer]}"
            return replace_at(design, "training.loop", after), f"training: steer {change}"
        if path == "loop.augment":
            return self._edit_augmentation(design, rng)
        now, values = plain[path]
        after = other(values, now, rng)
        label = path.rpartition(".")[2].replace("_", " ")
        return replace_at(design, f"training.{path}", after), f"training: {label} {_said(now)} -> {_said(after)}"

    def _edit_augmentation(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        values = self._augmentations(design)
        name = pick(list(values), rng)
        now = getattr(design.training.loop.augment, name)
        after = other(values[name], now, rng)
        change = f"{name.replace('_', ' ')} {words(now)} -> {words(after)}"
        return replace_at(design, f"training.loop.augment.{name}", after), f"training: augment {change}"

    def _augmentations(self, design: Design) -> dict[str, tuple[Any, ...]]:
        """Return the values of each augmentation of what the design reads."""
        read = [self.signature.inputs[name] for name in design.model.encoders if name in self.signature.inputs]
        return choices.augmentations(read)

    def _edit_algorithm(self, design: Design, rng: np.random.Generator) -> tuple[Design, str]:
        """Return another algorithm, with a rate of its own where the old one is out of its range."""
        optim = design.training.optim
        algorithm, description = choices.ALGORITHMS.edit(optim.algorithm, rng)
        low, high = choices.RATES[words(algorithm)]
        lr = optim.lr if low <= optim.lr <= high else _log_uniform(low, high, rng)
        edited = OptimSpec.from_dict(optim.to_dict() | {"algorithm": algorithm.to_dict(), "lr": lr})
        note = "" if lr == optim.lr else f", lr {words(optim.lr)} -> {words(lr)}"
        return replace_at(design, "training.optim", edited), f"training: algorithm {description}{note}"

    def _sample_training(self, rng: np.random.Generator) -> TrainingSpec:
        algorithm = choices.ALGORITHMS.sample(rng)
        optim = {
            "algorithm": algorithm,
            "lr": _log_uniform(*choices.RATES[words(algorithm)], rng),
            "weight_decay": pick(choices.WEIGHT_DECAYS, rng),
            "schedule": choices.SCHEDULES.sample(rng),
            "warmup": pick(choices.WARMUPS, rng),
        }
        loop = {
            "epochs": self._epochs(pick(choices.EPOCH_MULTIPLES, rng)),
            "batch_size": pick(self._batch_sizes, rng),
            "loss": pick(self._losses, rng),
            "ema": pick(choices.EMAS, rng),
        }
        usual = self.training
        sampled = LoopSpec.from_dict(usual.loop.to_dict() | {"accumulation": 1} | _plain(loop))
        undecided = sampled.patience is None and not isinstance(optim["schedule"], Plateau)
        if undecided and rng.random() < choices.TRAIN_ON_STEER:
            sampled = learning_from_steer(sampled)
        return TrainingSpec(optim=OptimSpec.from_dict(usual.optim.to_dict() | _plain(optim)), loop=sampled)

    def _epochs(self, multiple: float) -> float:
        return round(max(self.training.loop.epochs * multiple, 0.1), 1)


def modalities(signature: Signature) -> tuple[str, ...]:
    """Return the modalities that a design of the space reads: image and text where there are both, else the first."""
    both = [name for name in FUSED if name in signature.inputs]
    return tuple(both) if both else tuple(sorted(signature.inputs))[:1]


def usual_training(train_rows: int) -> TrainingSpec:
    """Return ordinary settings with more passes over a smaller train split."""
    return TrainingSpec(loop=LoopSpec(epochs=float(min(60, max(4, round(VISITS / train_rows))))))


def growing(design: Design, rules: GrowthSpec | None) -> Design:
    """Return the design grown by these rules; they need a steer split that is not learned from, seen often enough."""
    optim, loop = design.training.optim, design.training.loop
    if rules is not None:
        steered = learning_from_steer(loop, False)
        reviews = max(steered.evaluations_in(1.0), REVIEWS)
        kept = {"restore_best": loop.restore_best or loop.train_on_steer, "evaluations": reviews}
        loop = LoopSpec.from_dict(steered.to_dict() | kept)
    return Design(model=design.model, training=TrainingSpec(optim=optim, loop=loop, growth=rules))


def learning_from_steer(loop: LoopSpec, learns: bool = True) -> LoopSpec:
    """Return the loop with steer as more examples to learn from, or held out to keep the best weights."""
    return LoopSpec.from_dict(loop.to_dict() | {"train_on_steer": learns, "restore_best": not learns})


def _model(dim: int, encoders: dict[str, Spec], fusion: Spec | None, head: Spec) -> ModelSpec:
    return ModelSpec.from_dict(_plain({"dim": dim, "encoders": encoders, "fusion": fusion, "head": head}))


def _fit_for_trunk(model: ModelSpec) -> tuple[ModelSpec, list[str]]:
    """Return the model with every token for its trunk, if it has one, and what was opened."""
    return (model, []) if model.trunk is None else with_every_token(model)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with every spec as plain JSON types."""
    return {name: _plain_value(value) for name, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(cast("dict[str, Any]", value))
    return value.to_dict() if isinstance(value, Spec) else value


def _said(value: Any) -> str:
    """Return a value in an edit; of a loss, also what makes it special."""
    if not isinstance(value, Spec):
        return words(value)
    special = [f"{name} {words(v)}" for name, v in value.to_dict().items() if name != "kind" and v]
    return " ".join([words(value), *special])


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return _rounded(math.exp(rng.uniform(math.log(low), math.log(high))))


def _rounded(value: float) -> float:
    """Return two significant digits: what a person would write, and enough for a rate."""
    return float(f"{value:.1e}")
