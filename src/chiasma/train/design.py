"""The value that is searched: an architecture and how it is trained."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from chiasma.core.spec import Spec
from chiasma.data.augment import AugmentSpec
from chiasma.model.multimodal import ModelSpec
from chiasma.train.controlling import ControllerSpec, LSTMController


class AdamW(Spec):
    """Loshchilov and Hutter 2019 (https://arxiv.org/abs/1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)


class Adam(Spec):
    """Kingma and Ba 2015 (https://arxiv.org/abs/1412.6980); weight decay is added to the gradient."""

    kind: Literal["adam"] = "adam"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)


class SGD(Spec):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True


class Cosine(Spec):
    """Half a cosine from the peak to ``floor`` times the peak."""

    kind: Literal["cosine"] = "cosine"
    floor: float = Field(default=0.0, ge=0, le=1)


class Linear(Spec):
    """A straight line from the peak to ``floor`` times the peak."""

    kind: Literal["linear"] = "linear"
    floor: float = Field(default=0.0, ge=0, le=1)


class OneCycle(Spec):
    """Smith and Topin 2019 (https://arxiv.org/abs/1708.07120): cosine up over ``rise`` of the steps, cosine down."""

    kind: Literal["one_cycle"] = "one_cycle"
    rise: float = Field(default=0.3, gt=0, lt=1)
    start: float = Field(default=0.04, gt=0, le=1)
    floor: float = Field(default=1e-4, ge=0, le=1)


class Constant(Spec):
    """The peak, always."""

    kind: Literal["constant"] = "constant"


class Plateau(Spec):
    """Multiply by ``factor`` when the steer metric has not improved for ``patience`` evaluations."""

    kind: Literal["plateau"] = "plateau"
    factor: float = Field(default=0.5, gt=0, lt=1)
    patience: int = Field(default=3, ge=1)


class OptimSpec(Spec):
    """Optimiser and learning-rate schedule.

    Attributes:
        algorithm: The optimiser.
        lr: Peak learning rate.
        weight_decay: Of the weights of linear, convolutional and recurrent layers; biases, norms, embeddings and
            positions have none.
        schedule: What happens to the rate after warm-up.
        warmup: Fraction of the steps over which the rate rises linearly from zero.
        warmup_steps: How many steps it rises for, however long the training is; None for the fraction.
        clip: Largest norm of the gradient; None for no clipping.
        layer_decay: The rate of each layer of a pretrained encoder is so many times that of the layer above it; what
            comes before the first layer has the lowest, all else the whole rate. 1 makes no difference.
    """

    algorithm: Annotated[AdamW | Adam | SGD, Field(discriminator="kind")] = AdamW()
    lr: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Annotated[Cosine | Linear | OneCycle | Constant | Plateau, Field(discriminator="kind")] = Cosine()
    warmup: float = Field(default=0.05, ge=0, lt=1)
    warmup_steps: int | None = Field(default=None, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)

    def warming(self, total_steps: int) -> int:
        """Return for how many of the steps of a training the rate rises."""
        return round(self.warmup * total_steps) if self.warmup_steps is None else self.warmup_steps


class Unfreezing(Spec):
    """Layers of pretrained encoders begin to learn one after another, the last one first.

    Gradual unfreezing of Howard and Ruder 2018 (https://arxiv.org/abs/1801.06146), in parts of the training rather
    than in epochs, so that short rungs of a ladder see the same. What never learns, by ``freeze``, stays so.

    Attributes:
        begin: Part of the training in which no layer learns.
        end: Part of it after which all do; the layers are spread evenly in between.
    """

    begin: float = Field(default=0.1, ge=0, le=1)
    end: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> "Unfreezing":
        if self.end < self.begin:
            raise ValueError(f"end must be at least begin, but begin={self.begin} and end={self.end}")
        return self

    def asleep(self, layers: int, *, progress: float) -> int:
        """Return how many of an encoder's layers, from below, do not learn yet.

        Args:
            layers: How many there are, with what comes before the first one.
            progress: The part of the training that is over.
        """
        if progress < self.begin:
            return layers
        if progress >= self.end:
            return 0
        awake = 1 + math.floor((layers - 1) * (progress - self.begin) / (self.end - self.begin))
        return layers - awake


class CrossEntropy(Spec):
    """Cross-entropy of one class out of C.

    Attributes:
        smoothing: Probability mass spread evenly over all classes (Szegedy et al. 2016).
        balanced: Weigh each class by the inverse of its frequency in the train split.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    balanced: bool = False


class Focal(Spec):
    """Lin et al. 2017 (https://arxiv.org/abs/1708.02002), with alpha depending on the class as in the paper.

    Attributes:
        gamma: How strongly easy examples are discounted.
        alpha: Weight of the positive class, 1 - alpha for the other (two classes or labels); for more classes None.
        smoothing: Probability mass spread evenly over all classes; each then has its own focal term.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0)
    alpha: float | None = Field(default=None, gt=0, lt=1)
    smoothing: float = Field(default=0.0, ge=0, lt=1)


class BinaryCrossEntropy(Spec):
    """For any subset of C labels; ``balanced`` weighs positives by the ratio of negatives to positives."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    balanced: bool = False


class SquaredError(Spec):
    """Mean squared error on standardised targets."""

    kind: Literal["squared_error"] = "squared_error"


class Huber(Spec):
    """Huber 1964: quadratic below ``delta`` standard deviations, linear above."""

    kind: Literal["huber"] = "huber"
    delta: float = Field(default=1.0, gt=0)


SHORT_LOSSES: Mapping[str, Mapping[str, Any]] = {
    "ce": {"kind": "cross_entropy", "smoothing": 0.0},
    "label_smoothing": {"kind": "cross_entropy", "smoothing": 0.1},
    "focal": {"kind": "focal"},
    "focal_smoothing": {"kind": "focal", "smoothing": 0.1},
}
"""Document 003's words for losses, each with all else at its default."""

LossSpec = Annotated[CrossEntropy | Focal | BinaryCrossEntropy | SquaredError | Huber, Field(discriminator="kind")]


class LoopSpec(Spec):
    """The training loop.

    Attributes:
        epochs: Passes over the train split; a ladder rung trains a fraction of them.
        batch_size: Examples an optimiser step sees.
        accumulation: Micro-batches a step; ``batch_size`` must be divisible by it.
        recompute: Compute what happens inside transformer blocks, members of the trunk and the learning layers of
            pretrained backbones (without batch norms) again in the backward pass instead of keeping it: much less
            memory for one more forward pass, and the same results.
        loss: None for the target's own: cross-entropy, binary cross-entropy or squared error. Also one word: ``ce``,
            ``label_smoothing``, ``focal`` or ``focal_smoothing``.
        ema: Decay of an exponential moving average of the weights, used for evaluation and saved; None for none.
        patience: Stop after so many evaluations on ``steer`` without improvement; None never stops early.
        evaluations: Evaluations on ``steer`` over the whole training, evenly spaced; or ``every_epoch``. A ladder rung
            has a fraction of them, but all of them where a trunk grows, for whose members everything goes by reviews.
        restore_best: End with the weights of the best evaluation on ``steer`` rather than the last ones.
        balance: Repeat examples of rarer classes until every class has as many as the largest (classification).
        train_on_steer: Learn from ``steer`` too, without evaluating on it: for well regularised models on little data,
            to which more examples are worth more than the choice of the best moment. The last weights are kept.
        unfreeze: When the layers of pretrained encoders begin to learn; None lets all of them learn at once.
        augment: How training examples are varied.
    """

    epochs: float = Field(default=20.0, gt=0)
    batch_size: int = Field(default=64, ge=1)
    accumulation: int = Field(default=1, ge=1)
    recompute: bool = False
    loss: LossSpec | None = None
    ema: float | None = Field(default=None, gt=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    evaluations: Annotated[int, Field(ge=1)] | Literal["every_epoch"] = 10
    restore_best: bool = True
    balance: bool = False
    train_on_steer: bool = False
    unfreeze: Unfreezing | None = None
    augment: AugmentSpec = AugmentSpec()

    @field_validator("loss", mode="before")
    @classmethod
    def _from_one_word(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in SHORT_LOSSES:
            raise ValueError(f"a loss in one word is one of {', '.join(SHORT_LOSSES)}, but got {value!r}")
        return SHORT_LOSSES[value]

    def evaluations_in(self, fraction: float) -> int:
        """Return how many evaluations a part of the training has; none where nothing is held out."""
        if self.train_on_steer:
            return 0
        whole = self.epochs if self.evaluations == "every_epoch" else self.evaluations
        return math.ceil(whole * fraction)

    @model_validator(mode="after")
    def _undecided(self) -> "LoopSpec":
        if self.train_on_steer and (self.restore_best or self.patience is not None):
            raise ValueError(
                "train_on_steer leaves nothing to decide on, so it needs restore_best=false and patience=null, but "
                f"restore_best={str(self.restore_best).lower()} and patience={self.patience}"
            )
        return self

    @model_validator(mode="after")
    def _divisible(self) -> "LoopSpec":
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size must be divisible by accumulation, but batch_size={self.batch_size} "
                f"and accumulation={self.accumulation}"
            )
        return self


class GrowthSpec(Spec):
    """Rules by which members of the trunk are born, promoted and pruned while the model trains.

    After every evaluation on ``steer`` there is a review, and at most one thing happens in it. What a member is worth
    is measured there: how much the loss rises when the member is left out, example by example. Defaults marked (000)
    are those of document 000's strategist, (000's paper) names what only its text describes and never with a figure;
    the others were chosen, for reviews on some hundred examples, for the reason that is given.

    Attributes:
        births: ``guided`` by what the members are worth and where they err; ``random`` births and deaths are the
            control; ``none`` measures and draws the members without changing them.
        largest: Most members at a time (000: 6).
        smallest: Fewest members that are left by pruning (000: 2).
        memory: What the past counts in the moving average of a member's contribution (000's paper: 1 - eta; chosen: the
            last two reviews say most, since members change quickly).
        worth: The rise of the loss, in parts of the loss, below which a member is useless and a newcomer is not
            promoted (000: 0.01, there of the routing weight).
        certainty: Standard errors by which a measurement must be on one side (chosen: two leave 2.5 % to chance).
        probation: Reviews before a newcomer can be promoted (000's paper: a minimum age; chosen: one review may be
            luck, and a newcomer says nothing in its first steps).
        longevity: Reviews after which a newcomer that has shown nothing is pruned, and in a row in which a member must
            have been useless, since it was promoted, to be pruned (000: 4).
        cooldown: Reviews, that of its end included, in which a kind is not tried again after a newcomer of it has
            failed (000: 3, counted alike).
        exploit: How often a newcomer is a specialist, bred from a good member, rather than a kind at random
            (000: 0.75).
        temperature: How evenly parents are chosen; near 0 always the best (000's paper: softmax(F / tau); chosen:
            contributions sum to one, and 0.2 prefers one that is 0.2 above another e times).
        emphasis: How much more a specialist learns from the examples that the population gets wrong together (chosen:
            twice as much in their centre, so that the others are not forgotten).
        learned: Nothing happens before the loss on ``steer``, recalibrated with one slope, is by this part below that
            of the best answer that is the same for all examples: until then nobody can show what it is worth. 0 does
            not wait (chosen: a slope without meaning gains some 1 / (2 n) nats, under 1 % of the loss from 100
            examples on).
        warm_up: Reviews over which a newcomer's learning rate rises to that of the others (000's paper: a warm-up for
            children; chosen: one review, half the probation, so that it is judged at the full rate).
        last_birth: Part of the training after which nobody is born, so that the last have time to learn (chosen: with
            30 reviews, nine are left for the probation and for learning as a member while the rate falls).
        lessons: A member that is to be pruned first teaches the others, until the next review.
    """

    births: Literal["guided", "random", "none"] = "guided"
    largest: int = Field(default=6, ge=1)
    smallest: int = Field(default=2, ge=1)
    memory: float = Field(default=0.5, ge=0, lt=1)
    worth: float = Field(default=0.01, ge=0)
    certainty: float = Field(default=2.0, ge=0)
    probation: int = Field(default=2, ge=1)
    longevity: int = Field(default=4, ge=1)
    cooldown: int = Field(default=3, ge=0)
    exploit: float = Field(default=0.75, ge=0, le=1)
    temperature: float = Field(default=0.2, gt=0)
    emphasis: float = Field(default=1.0, ge=0)
    learned: float = Field(default=0.05, ge=0, lt=1)
    warm_up: int = Field(default=1, ge=0)
    last_birth: float = Field(default=0.7, ge=0, le=1)
    lessons: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "GrowthSpec":
        if self.smallest > self.largest:
            raise ValueError(f"smallest must be at most largest, but smallest={self.smallest}, largest={self.largest}")
        if self.probation > self.longevity:
            raise ValueError(
                f"probation must be at most longevity, but probation={self.probation} and longevity={self.longevity}"
            )
        return self


class TrainingSpec(Spec):
    """Everything about training that may be searched.

    Attributes:
        growth: How the trunk's members come and go; None leaves them as they are.
        controller: What adapts the training while it runs; None leaves it as it is.
    """

    optim: OptimSpec = OptimSpec()
    loop: LoopSpec = LoopSpec()
    growth: GrowthSpec | None = None
    controller: ControllerSpec | None = None

    def evaluations_in(self, fraction: float) -> int:
        """Return how many evaluations on ``steer`` a part of the training has: as often by the step as the whole.

        A trunk that grows has all of them in any part: its members are born, tried and judged by the review, so that
        with fewer there would be no growth to judge.
        """
        return self.loop.evaluations_in(fraction if self.growth is None else 1.0)

    @model_validator(mode="after")
    def _steer_is_left(self) -> "TrainingSpec":
        if self.loop.train_on_steer and isinstance(self.controller, LSTMController):
            raise ValueError("a controller learns from what is measured on steer, so it excludes train_on_steer=true")
        return self

    @model_validator(mode="after")
    def _plateau_is_seen(self) -> "TrainingSpec":
        if self.loop.train_on_steer and isinstance(self.optim.schedule, Plateau):
            raise ValueError("a plateau is seen on steer: schedule=plateau and train_on_steer=true exclude each other")
        return self


class Design(Spec):
    """The one value that every proposer edits, every job trains and every checkpoint carries."""

    model: ModelSpec
    training: TrainingSpec = TrainingSpec()

    @model_validator(mode="after")
    def _something_can_grow(self) -> "Design":
        if self.training.growth is not None and self.model.trunk is None:
            raise ValueError(
                "growth is of the trunk's members, but the model has no trunk: model.trunk.kind=population"
            )
        if self.training.growth is not None and self.training.loop.train_on_steer:
            raise ValueError("growth is decided on steer, so it excludes train_on_steer=true")
        return self
