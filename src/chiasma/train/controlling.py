"""How a controller adapts a training while it runs."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from chiasma.core.spec import Spec

Control = Literal["rate", "rates", "dropout", "decay", "gates", "structure"]

# A displacement is seen in one step and compared with the gradient of the next, after a step that remembers where
# the weights were.
SHORTEST = 3


class LSTMController(Spec):
    """The double loop: an LSTM looks at the training, sets it, and learns from what is then measured on ``steer``.

    Document 004 describes such a controller and never calls it. Defaults marked (004) are its own. The others were
    chosen by ``benchmarks/controller.py``; ``docs/decisions/012-the-double-loop.md`` has the figures.

    Attributes:
        controls: What it sets. ``rate``: one scale of all learning rates. ``rates``: one more for each of encoders,
            fusion, trunk and head (004: layer-wise). ``dropout`` and ``decay``: a scale of dropout and of weight decay
            (004: regularisation strength). ``gates``: a scale and a shift of the fused tokens and of the trunk's
            output (004: adaptive layer norm). ``structure``: how much certainty a prune takes, and, near its lower
            end, that nobody is born; only where the design grows.
        every: Steps between decisions (004: 50 to 100 in its text, 100 in its code); more where measuring would cost
            more than ``share``. Short trainings here have some hundred steps in all.
        sample: Rows of ``steer`` on which a decision's worth is measured.
        share: Most that measuring may cost, in parts of a step's work; decided by counting examples, not by the clock,
            so that a resumed training decides alike. Where several processes train, one measures and the others wait:
            in wall time it may then cost as many times more as there are processes.
        hidden: Width of the LSTM (004: 256; a fresh one learns from some dozen decisions, too few for so many weights).
        layers: Of the LSTM (004: 2).
        lr: Learning rate of the controller's own Adam (004: 1e-5, with which nothing is learned in one training).
        window: Decisions in one lesson of the actor-critic.
        discount: What an improvement one decision later counts (Sutton and Barto 2018 use 0.9 to 0.99).
        trace: How far an advantage looks ahead before it believes the critic (Schulman et al. 2016,
            https://arxiv.org/abs/1506.02438, who use 0.95).
        entropy: Weight in the lesson of how freely it tries (Mnih et al. 2016, https://arxiv.org/abs/1602.01783: 0.01).
        explore: Standard deviation of what it tries at first, in parts of the largest change; what is tried adds up,
            to a factor of 1.3 over fifty decisions.
        trust: How much a rate follows the hypergradient before anything was learned; 0 begins without any opinion.
        step: Largest factor of one change of a rate.
        reach: The factor of ``rate``, that of each of ``rates`` and that of ``decay`` stay within this (004: a tenth to
            twice). A part's rate is the schedule's times both of its factors: with both controls it may be as far from
            the schedule as the square of this.
        strength: Largest change of a gate's scale and its largest shift (004: 0.1).
        limit: A rise of the loss by this part, measured on ``steer`` or, between measurements, smoothed over training
            steps, rolls the last action back.
        learns: Off, it acts on what it has learned and neither tries nor learns; for controllers of ``meta-train``.
        start: Folder of a controller that ``chiasma meta-train`` has learned; None begins afresh.
        content: The hash of what lies in ``start``; settings that are composed from files have it filled in.
    """

    kind: Literal["lstm"] = "lstm"
    controls: tuple[Control, ...] = Field(default=("rate",), min_length=1)
    every: int = Field(default=20, ge=SHORTEST)
    sample: int = Field(default=256, ge=16)
    share: float = Field(default=0.1, gt=0, le=1)
    hidden: int = Field(default=32, ge=1)
    layers: int = Field(default=1, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    window: int = Field(default=5, ge=1)
    discount: float = Field(default=0.9, ge=0, le=1)
    trace: float = Field(default=0.95, ge=0, le=1)
    entropy: float = Field(default=0.01, ge=0)
    explore: float = Field(default=0.1, gt=0, le=1)
    trust: float = Field(default=2.0, ge=0)
    step: float = Field(default=1.5, gt=1)
    reach: float = Field(default=10.0, gt=1)
    strength: float = Field(default=0.1, gt=0, lt=1)
    limit: float = Field(default=0.2, gt=0)
    learns: bool = True
    start: str | None = None
    content: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")

    @field_validator("controls")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"each control is named once, but got {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _identified(self) -> "LSTMController":
        if (self.start is None) != (self.content is None):
            raise ValueError(
                "start and content belong together: the hash says which controller lies in the folder, but "
                f"start={self.start} and content={self.content}"
            )
        if self.start is None and not self.learns:
            raise ValueError("a controller that neither knows nor learns anything does nothing: give it a start")
        return self


class HypergradientController(Spec):
    """The learning rate follows its own gradient; nothing is measured and nothing else learned.

    Hypergradient descent of Baydin et al. 2018 (https://arxiv.org/abs/1703.04782). Unlike there, where a
    multiple of the product of gradient and displacement is added, whose size has to be tuned to that of the gradients,
    each rate is multiplied by ``exp(step * cosine)`` of their angle.
    The displacement is that of all steps of an interval but two; ``every=3`` is that of one step, as theirs.

    Attributes:
        every: Steps between changes.
        step: Logarithm of the largest change. Cosines are mostly within 0.1: with batches of 64, noise and signal are
            about as large over sixty changes, and a longer step only drifts further.
        reach: Rates stay within this factor of the schedule.
        apart: Encoders, fusion, trunk and head each follow their own; otherwise all follow that of the whole model.
    """

    kind: Literal["hypergradient"] = "hypergradient"
    every: int = Field(default=10, ge=SHORTEST)
    step: float = Field(default=0.5, gt=0)
    reach: float = Field(default=10.0, gt=1)
    apart: bool = False


ControllerSpec = Annotated[LSTMController | HypergradientController, Field(discriminator="kind")]
