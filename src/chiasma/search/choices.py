"""What the hand-written space chooses from: one literal table a part of a design."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from chiasma.core.spec import Spec
from chiasma.data.signature import ImageInput, InputSpec, Target, TextInput
from chiasma.model.encoders import Bert, Convolution, Features, NGram, Pixels, ViT
from chiasma.model.fusion import Bilinear, Concat, CrossAttention, Early, FiLM, Gated, Late, Multiplicative
from chiasma.model.heads import Classification, Multilabel, Regression
from chiasma.train.design import (
    SGD,
    Adam,
    AdamW,
    BinaryCrossEntropy,
    Constant,
    Cosine,
    CrossEntropy,
    Huber,
    Linear,
    OneCycle,
    Plateau,
    SquaredError,
)

V = TypeVar("V")

HIDDEN = (None, 64, 128, 256)
DROPOUT = (0.0, 0.1, 0.2, 0.3, 0.5)
TRANSFORMER: Mapping[str, Sequence[Any]] = {"heads": (2, 4, 8), "expansion": (2, 4), "dropout": (0.0, 0.1, 0.2)}
DIMS = (32, 64, 96, 128)  # Every number of heads above divides every one of them.


@dataclass(frozen=True)
class Variant:
    """One kind of component and the values that its fields may take.

    Attributes:
        spec: Its class; fields that are not named keep their defaults.
        fields: Values by field.
        weight: How often it is drawn, relative to the other variants of its part.
    """

    spec: type[Spec]
    fields: Mapping[str, Sequence[Any]]
    weight: float = 1.0

    @property
    def kind(self) -> str:
        """Return the discriminator of the spec."""
        return str(self.spec.model_fields["kind"].default)

    def sample(self, rng: np.random.Generator) -> Spec:
        """Return the component with every named field drawn evenly."""
        return self.spec(**{name: pick(values, rng) for name, values in self.fields.items()})


@dataclass(frozen=True)
class Part:
    """One place in a design and the variants that may stand there."""

    variants: tuple[Variant, ...]

    def sample(self, rng: np.random.Generator) -> Spec:
        """Return one variant, drawn by weight."""
        return _weighted(self.variants, rng).sample(rng)

    def edit(self, spec: Spec | None, rng: np.random.Generator) -> tuple[Spec, str]:
        """Return another component for this place and the edit in words.

        Half of the edits change one field of the present variant, the others replace it. A component from elsewhere,
        such as a plugin or None, is replaced.
        """
        kind = getattr(spec, "kind", None)
        present = next((variant for variant in self.variants if variant.kind == kind), None)
        others = tuple(variant for variant in self.variants if variant.kind != kind)
        tunable = present is not None and any(len(values) > 1 for values in present.fields.values())
        if spec is not None and present is not None and tunable and (not others or rng.random() < 0.5):
            return _retune(spec, present, rng)
        chosen = _weighted(others or self.variants, rng)
        return chosen.sample(rng), f"{kind or 'none'} -> {chosen.kind}"


def pick(values: Sequence[V], rng: np.random.Generator) -> V:
    """Return one of the values, drawn evenly."""
    return values[int(rng.integers(len(values)))]


def other(values: Sequence[V], present: V, rng: np.random.Generator) -> V:
    """Return one of the values that differs from the present one, drawn evenly."""
    return pick([value for value in values if value != present], rng)


def words(value: Any) -> str:
    """Return a value as an edit shows it."""
    if isinstance(value, tuple):
        return "-".join(words(item) for item in cast("tuple[Any, ...]", value))
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(getattr(value, "kind", "none" if value is None else value))


def encoder_part(input: InputSpec) -> Part:
    """Return the encoders that accept one kind of input."""
    if isinstance(input, ImageInput):
        return Part((_convolution(input), _vit(input), PIXELS))
    return Part((BERT, NGRAM)) if isinstance(input, TextInput) else Part((FEATURES,))


def _convolution(input: ImageInput) -> Variant:
    side = max(input.height, input.width)
    widths = ((16, 32), (32, 64), (16, 32, 64), (32, 64, 64), (32, 64, 128))
    grids = [grid for grid in (2, 4, 8, 16) if grid <= side] or [1]
    fields = {
        "widths": widths,
        "grid": grids,
        "residuals": (0, 1),
        "pool": ("max", "flatten", "none"),
        "positions": (False, True),
    }
    return Variant(Convolution, fields, weight=3.0)


def _vit(input: ImageInput) -> Variant:
    side = max(input.height, input.width)
    fields = {
        "stem": ("patch", "convolution"),
        "grid": [grid for grid in (4, 8) if grid <= side] or [1],
        "depth": (1, 2, 3),
        "pool": ("none", "cls", "mean"),
        **TRANSFORMER,
    }
    return Variant(ViT, fields)


PIXELS = Variant(Pixels, {"size": (8, 16)}, weight=0.5)
BERT = Variant(Bert, {"depth": (1, 2, 3), "pool": ("none", "cls", "mean"), **TRANSFORMER})
NGRAM = Variant(NGram, {"orders": (1, 2, 3), "buckets": (1024, 4096, 16384), "weighting": ("log", "binary")})
# Ready-made tokens are read one by one, or as their mean, which is many times cheaper; only the former have places.
FEATURES = Variant(Features, {"hidden": HIDDEN, "dropout": DROPOUT, "pool": ("none", "mean")})

DIRECTIONS = ("image_to_text", "text_to_image", "both")
FUSION = Part(
    (
        Variant(Concat, {"hidden": HIDDEN}),
        Variant(Gated, {}),
        Variant(Multiplicative, {"width": (None, 128, 256), "sums": (True, False)}, weight=2.0),
        Variant(Bilinear, {"rank": (2, 4, 8)}),
        Variant(FiLM, {"depth": (1, 2, 3)}),
        Variant(
            CrossAttention,
            {"depth": (1, 2), "direction": DIRECTIONS, **TRANSFORMER},
            weight=2.0,
        ),
        Variant(Early, {"depth": (1, 2, 3), **TRANSFORMER}),
        Variant(Late, {"method": ("concat", "add", "attention"), "hidden": HIDDEN}, weight=0.5),
    )
)

# What hands a trunk the tokens that its members look at.
FUSION_OF_TOKENS = Part(
    (
        Variant(FiLM, {"depth": (1, 2, 3), "pool": ("none",)}, weight=2.0),
        Variant(
            CrossAttention,
            {"depth": (1, 2), "direction": DIRECTIONS, "pool": ("none",), **TRANSFORMER},
            weight=2.0,
        ),
        Variant(Early, {"depth": (1, 2, 3), **TRANSFORMER}),
    )
)


def head_part(target: Target) -> Part:
    """Return the heads of one task."""
    kinds = {"classification": Classification, "multilabel": Multilabel, "regression": Regression}
    return Part((Variant(kinds[target.task], {"hidden": HIDDEN, "dropout": DROPOUT}),))


def loss_choices(target: Target) -> tuple[Spec, ...]:
    """Return the losses of one task."""
    choices: dict[str, tuple[Spec, ...]] = {
        "classification": tuple(
            CrossEntropy(smoothing=smoothing, balanced=balanced)
            for smoothing in (0.0, 0.05, 0.1)
            for balanced in (False, True)
        ),
        "multilabel": (BinaryCrossEntropy(), BinaryCrossEntropy(balanced=True)),
        "regression": (SquaredError(), Huber()),
    }
    return choices[target.task]


ALGORITHMS = Part((Variant(AdamW, {}, weight=4.0), Variant(Adam, {}), Variant(SGD, {"momentum": (0.8, 0.9)})))
SCHEDULES = Part(
    (
        Variant(Cosine, {"floor": (0.0, 0.05)}, weight=3.0),
        Variant(OneCycle, {"rise": (0.1, 0.3)}, weight=2.0),
        Variant(Linear, {"floor": (0.0, 0.05)}),
        Variant(Constant, {}),
        Variant(Plateau, {"factor": (0.3, 0.5), "patience": (1, 2)}),
    )
)
# Peak learning rates: lowest and highest. Plain gradient descent needs steps a hundred times as long.
RATES: Mapping[str, tuple[float, float]] = {"adamw": (3e-4, 2e-2), "adam": (3e-4, 2e-2), "sgd": (1e-2, 0.3)}
WEIGHT_DECAYS = (0.0, 1e-3, 1e-2, 0.1, 0.3)
WARMUPS = (0.0, 0.05, 0.1)
BATCH_SIZES = (32, 64, 128, 256)
EPOCH_MULTIPLES = (0.5, 1.0, 2.0)
TRAIN_ON_STEER = 0.3  # How often a random design learns from steer too.
EMAS = (None, 0.98, 0.995)


def augmentations(inputs: Sequence[InputSpec]) -> dict[str, tuple[Any, ...]]:
    """Return the values of each augmentation that makes sense for a model of some inputs."""
    values: dict[str, tuple[Any, ...]] = {}
    if any(isinstance(input, ImageInput) for input in inputs):
        switches = {"flip": (False, True), "trivial": (False, True)}
        values |= {"crop": (0.0, 0.125), "colour": (0.0, 0.3), "erase": (0.0, 0.25), **switches}
    if any(isinstance(input, TextInput) for input in inputs):
        values["word_dropout"] = (0.0, 0.1, 0.2)
    if len(inputs) > 1:
        values["modality_dropout"] = (0.0, 0.1, 0.3)
    return values


def _retune(spec: Spec, variant: Variant, rng: np.random.Generator) -> tuple[Spec, str]:
    name = pick([name for name, values in variant.fields.items() if len(values) > 1], rng)
    before = getattr(spec, name)
    after = other(variant.fields[name], before, rng)
    changed = type(spec).from_dict(spec.to_dict() | {name: after})
    return changed, f"{variant.kind} {name} {words(before)} -> {words(after)}"


def _weighted(variants: Sequence[Variant], rng: np.random.Generator) -> Variant:
    weights = np.array([variant.weight for variant in variants])
    return variants[int(rng.choice(len(variants), p=weights / weights.sum()))]
