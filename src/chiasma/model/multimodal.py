"""The model: encoders, a fusion, a trunk, a head, and the spec that builds them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, suggestion
from chiasma.data.batch import Batch, Output, TokenBatch, Tokens, beside, cleared
from chiasma.data.signature import Signature
from chiasma.model.blocks import TransformerSpec
from chiasma.model.encoders import EncoderSpec, resolve_encoder
from chiasma.model.encoders.encoder import EncoderSettings
from chiasma.model.fusion import Composed, FusionSpec
from chiasma.model.gates import Gate, GatePlace, at
from chiasma.model.heads import Classification, HeadSpec
from chiasma.model.trunk import TrunkSpec
from chiasma.model.vilbert_inputs import check_published_inputs
from chiasma.model.whole import ModelPlugin

FUSED = ("image", "text")


class ModelSpec(Spec):
    """An architecture.

    Attributes:
        dim: Width D of all tokens between encoders, fusion and head; a fusion may take wider or narrower ones.
        encoders: By modality; a model may use only some of a dataset's modalities.
        fusion: Joins image and text; None when there is one encoder, or where the head compares both.
        trunk: Members that change the fused tokens; None leaves them as they are.
        head: From the fused tokens to the output.
        gates: What the fused tokens and the trunk's output go through; a controller sets them while a model trains.
        whole: A third party's model in place of encoders, fusion, trunk and head; None in all our own designs.
    """

    dim: int = Field(default=64, ge=1)
    encoders: Mapping[str, EncoderSpec] = {}
    fusion: FusionSpec | None = None
    trunk: TrunkSpec | None = None
    head: HeadSpec = Classification()
    gates: Mapping[GatePlace, Gate] = {}
    whole: ModelPlugin | None = None

    def check(self, signature: Signature) -> None:
        """Refuse a dataset that this architecture cannot be built for.

        Raises:
            ConfigError: A modality is missing from the dataset or of the wrong kind, or the task is another one.
        """
        for name, spec in self.encoders.items():
            if name not in signature.inputs:
                known = ", ".join(sorted(signature.inputs))
                near = suggestion(name, list(signature.inputs))
                raise ConfigError(f"encoders.{name}: the data has no modality {name!r}.{near} It has: {known}.")
            given = signature.inputs[name]
            settings = resolve_encoder(spec)
            if not isinstance(given, settings.accepts):
                fitting = ", ".join(encoder_kinds(given))
                raise ConfigError(
                    f"encoders.{name}: kind {spec.kind!r} does not read {given.kind} inputs. Kinds that do: {fitting}."
                )
            settings.check(name, given)
        check_published_inputs(self.fusion, self.encoders, signature)
        if self.whole is None and self.head.kind != signature.target.task:
            raise ConfigError(
                f"head: kind must be the target's task {signature.target.task!r}, but it is {self.head.kind!r}."
            )

    def width_of(self, modality: str) -> int:
        """Return the width of the tokens that the encoder of a modality makes."""
        return self.dim if self.fusion is None else self.fusion.widths(self.dim)[modality]

    def build(self, signature: Signature) -> "MultimodalModel":
        """Return a model with fresh weights from torch's global generator.

        Raises:
            ConfigError: The architecture does not fit the dataset.
        """
        self.check(signature)
        return MultimodalModel(self, signature)

    @model_validator(mode="after")
    def _check_parts(self) -> "ModelSpec":
        names = sorted(self.encoders)
        if self.whole is not None:
            if names or self.fusion is not None or self.trunk is not None:
                given = {"encoders": names, "fusion": self.fusion, "trunk": self.trunk}
                named = ", ".join(name for name, value in given.items() if value)
                raise ValueError(f"a whole model replaces encoders, fusion and trunk, but {named} are given too")
            return self
        if not names:
            raise ValueError("encoders must name at least one modality, but there is none")
        if len(names) == 1 and self.fusion is not None:
            raise ValueError(
                f"fusion must be null with one encoder, but encoders={names} and fusion={self.fusion.kind!r}"
            )
        if self.head.kind == "contrastive":
            self._check_sides(names)
            return self
        if len(names) > 1 and self.fusion is None:
            raise ValueError(f"fusion must be given with more than one encoder, but encoders={names} and fusion=null")
        if self.fusion is not None and names != list(FUSED):
            raise ValueError(f"fusion joins exactly the encoders {list(FUSED)}, but encoders={names}")
        return self

    def _check_sides(self, names: list[str]) -> None:
        mixing = {"fusion": self.fusion, "trunk": self.trunk}
        given = [name for name, part in mixing.items() if part is not None]
        if names != list(FUSED) or given:
            raise ValueError(
                f"a contrastive head compares the encoders {list(FUSED)}, which nothing may mix before, but "
                f"encoders={names} and {', '.join(given) or 'nothing'} mixes them: leave fusion and trunk out"
            )

    @model_validator(mode="after")
    def _check_heads(self) -> "ModelSpec":
        parts = {f"encoders.{name}": (spec, self.width_of(name)) for name, spec in self.encoders.items()}
        for path, (part, dim) in (parts | {"fusion": (self.fusion, self.dim)}).items():
            if isinstance(part, TransformerSpec) and dim % part.heads:
                raise ValueError(f"dim must be divisible by {path}.heads, but dim={dim} and heads={part.heads}")
        if self.fusion is not None:
            self.fusion.check(self.dim)
        if isinstance(self.fusion, Composed):
            for heads in self.fusion.tree.heads:
                if self.dim % heads:
                    raise ValueError(
                        f"dim must be divisible by fusion.tree's heads, but dim={self.dim} and heads={heads}"
                    )
        if self.trunk is not None:
            self.trunk.check_heads(self.dim)
        return self


class MultimodalModel(nn.Module):
    """Encoders, a fusion, a trunk and a head: the single entry through which everything passes.

    Args:
        spec: The architecture.
        signature: What the dataset looks like.
    """

    def __init__(self, spec: ModelSpec, signature: Signature) -> None:
        super().__init__()
        self._spec = spec
        self.signature = signature
        # In sorted order, as in the canonical JSON: equal specs draw equal weights from one seed.
        self.encoders = nn.ModuleDict(
            {
                name: resolve_encoder(spec.encoders[name]).build(spec.width_of(name), signature.inputs[name])
                for name in sorted(spec.encoders)
            }
        )
        self.fusion = None if spec.fusion is None else spec.fusion.build(spec.dim)
        self.trunk = None if spec.trunk is None else spec.trunk.build(spec.dim)
        self.head = None if spec.whole is not None else spec.head.build(spec.dim, signature.target)
        self.whole = None if spec.whole is None else spec.whole.build(signature)
        self.gates: Mapping[GatePlace, Gate] = spec.gates

    @property
    def spec(self) -> ModelSpec:
        """Return the architecture as it is now; members of a trunk come and go, and gates are moved."""
        now = {"gates": self.gates} if self.trunk is None else {"gates": self.gates, "trunk": self.trunk.spec}
        return self._spec.model_copy(update=now)

    def modulate(self, gates: Mapping[GatePlace, Gate]) -> None:
        """Put gates in place of those that were set before; where none is given, those of the spec stand."""
        self.gates = {**self._spec.gates, **gates}

    def forward(self, batch: Batch | TokenBatch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return the output of each row.

        Args:
            batch: Raw inputs, or tokens that :meth:`encode` returned.
            targets: Token ids to predict, for heads that generate.
        """
        if self.whole is not None:
            assert isinstance(batch, Batch)
            return self.whole(_without_absent(batch), targets)
        tokens = batch if isinstance(batch, TokenBatch) else self.encode(batch)
        fused = self.fuse(tokens)
        if self.trunk is None:
            return self.answer(fused, tokens, targets)
        trunked = self.trunk(fused)
        return replace(self.answer(trunked.tokens, tokens, targets), penalty=trunked.penalty)

    def fuse(self, tokens: TokenBatch) -> Tokens:
        """Return the joint tokens of all modalities, before the trunk; side by side where there is no fusion."""
        if self.fusion is None:
            fused = beside([tokens.tokens[name] for name in self.encoders])
        else:
            fused = self.fusion(*(tokens.tokens[name] for name in FUSED))
        return at(self.gates, "fusion").apply(fused)

    def answer(self, tokens: Tokens, encoded: TokenBatch, targets: Int[Tensor, "B L"] | None = None) -> Output:
        """Return what the head says of the joint tokens, after the trunk if there is one.

        Args:
            tokens: What the trunk, or without one the fusion, returned.
            encoded: What the encoders returned.
            targets: Token ids to predict, for heads that generate.
        """
        assert self.head is not None
        joint = tokens if self.trunk is None else at(self.gates, "trunk").apply(tokens)
        return self.head(joint, encoded, targets)

    def encode(self, batch: Batch) -> TokenBatch:
        """Return the tokens of each modality this model uses; absent parts are masked and zero.

        Raises:
            ValueError: The batch lacks a modality that the model uses.
        """
        tokens = {}
        for name, encoder in self.encoders.items():
            if name not in batch.inputs:
                raise ValueError(
                    f"The model reads {name!r}, but the batch has only: {', '.join(sorted(batch.inputs))}."
                )
            present = batch.present[name]
            tokens[name] = encoder(_zero_absent(batch.inputs[name], present)).only(present)
        return TokenBatch(tokens, batch.ids)


def encoder_kinds(given: Spec) -> list[str]:
    """Return the kinds of encoder that read an input; plugins are not listed."""
    union, _ = get_args(EncoderSpec)
    ours: list[Any] = [member for member in get_args(union) if issubclass(member, EncoderSettings)]
    return [member.model_fields["kind"].default for member in ours if isinstance(given, member.accepts)]


def _without_absent(batch: Batch) -> Batch:
    inputs = {name: _zero_absent(value, batch.present[name]) for name, value in batch.inputs.items()}
    return Batch(inputs, batch.present, batch.ids)


def _zero_absent(value: Tensor | Tokens, present: Tensor) -> Tensor | Tokens:
    """Zero absent rows before the encoder: a NaN there would reach shared weights through the gradient."""
    if isinstance(value, Tokens):
        return value.only(present)
    return cleared(value, present)
