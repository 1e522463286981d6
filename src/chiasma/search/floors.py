"""Floors as designs: simple models that enter the archive first, so that nothing worse than them is ever shipped."""

from dataclasses import dataclass

from chiasma.core.spec import Spec
from chiasma.data.signature import ImageInput, InputSpec, Signature, TextInput
from chiasma.model.encoders import Bert, Features, NGram, Pixels, usual_encoder
from chiasma.model.fusion import Concat, Late
from chiasma.model.heads import Classification, Multilabel, Regression
from chiasma.model.multimodal import ModelSpec
from chiasma.search.design_space import DesignSpace, learning_from_steer, modalities
from chiasma.train.design import Design, OptimSpec, TrainingSpec

DIM = 64
MOST_LINEAR_DIM = 512
# Linear models learn sparse words and noisy features best in long steps with strong regularisation.
LINEAR_OPTIM = OptimSpec(lr=1e-2, weight_decay=0.1)
LINEAR_DROPOUT = 0.5
DEEP_RATE = 1e-3


@dataclass(frozen=True)
class FloorDesign:
    """A floor that is a design like any other.

    Attributes:
        name: Unique among the floors: ``linear``, ``image_linear``, ``image_only``, ``concat``, ...
        description: One line a user understands.
        design: What is trained.
        linear: Whether its outputs are linear in features of the input, so that it trains in seconds.
    """

    name: str
    description: str
    design: Design
    linear: bool


def floor_designs(signature: Signature, space: DesignSpace) -> list[FloorDesign]:
    """Return the floors of one kind of data, the linear ones first.

    With image and text: both linear and added, each alone linear, each alone deep, and both deep behind concatenation
    with a hidden layer. With one modality: it alone, linear and deep.

    Args:
        signature: What the data looks like.
        space: Its usual training is the floors', with rates of their own.
    """
    inputs = {name: signature.inputs[name] for name in modalities(signature)}
    linear = {name: _linear_encoder(input) for name, input in inputs.items()}
    deep: dict[str, Spec] = {name: usual_encoder(input) for name, input in inputs.items()}

    def floor(
        name: str, description: str, encoders: dict[str, Spec], fusion: Spec | None = None, *, linear: bool
    ) -> FloorDesign:
        return FloorDesign(name, description, _design(space, encoders, fusion, linear), linear)

    floors: list[FloorDesign] = []
    both = len(inputs) > 1
    if both:
        text = "linear on image and on text, scores added"
        floors.append(floor("linear", text, linear, Late(method="add"), linear=True))
    for name, encoder in linear.items():
        floors.append(floor(f"{name}_linear", f"linear on {name} alone", {name: encoder}, linear=True))
    for name, encoder in deep.items():
        kind = encoder.to_dict()["kind"]
        floors.append(floor(f"{name}_only", f"{name} alone, {kind} encoder", {name: encoder}, linear=False))
    if both:
        text = "image and text encoders side by side, two hidden layers"
        # Behind concatenation a bag of n-grams learns far slower than a transformer, and a floor gets its best chance.
        beside = {**deep, "text": Bert(depth=1, pool="mean")} if isinstance(inputs["text"], TextInput) else deep
        floors.append(floor("concat", text, beside, Concat(hidden=4 * DIM), linear=False))
    return floors


def _linear_width(space: DesignSpace) -> int:
    """Return a width that does not bound the rank of the map from features to outputs, unless there are very many."""
    return min(MOST_LINEAR_DIM, max(DIM, space.signature.target.outputs))


def _linear_encoder(input: InputSpec) -> Spec:
    if isinstance(input, ImageInput):
        return Pixels()
    return NGram() if isinstance(input, TextInput) else Features(pool="mean", dropout=LINEAR_DROPOUT)


def _design(space: DesignSpace, encoders: dict[str, Spec], fusion: Spec | None, linear: bool) -> Design:
    heads = {"classification": Classification, "multilabel": Multilabel, "regression": Regression}
    head = heads[space.signature.target.task](hidden=None if linear else 2 * DIM)
    model = ModelSpec.from_dict(
        {
            "dim": _linear_width(space) if linear else DIM,
            "encoders": {name: encoder.to_dict() for name, encoder in encoders.items()},
            "fusion": None if fusion is None else fusion.to_dict(),
            "head": head.to_dict(),
        }
    )
    loop = space.training.loop
    if not linear:
        return Design(model=model, training=TrainingSpec(optim=OptimSpec(lr=DEEP_RATE), loop=loop))
    # Strong regularisation takes the place of early stopping, and more examples are worth more to it.
    learning = learning_from_steer(loop.model_copy(update={"patience": None}))
    return Design(model=model, training=TrainingSpec(optim=LINEAR_OPTIM, loop=learning))
