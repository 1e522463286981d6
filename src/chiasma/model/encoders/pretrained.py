"""Encoders that somebody else has trained, from the transformers library."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from chiasma.core.errors import ConfigError
from chiasma.core.rng import kept_torch_generator
from chiasma.core.spec import Spec
from chiasma.data.batch import Tokens
from chiasma.data.published import SMALL_FILES, Published, published_folder
from chiasma.data.published_text import SHIFT, read_tokenizer
from chiasma.data.signature import ImageInput, TextInput, TokensInput
from chiasma.model.blocks import pooled
from chiasma.model.encoders.backbone import (
    FIRST,
    INTERPOLATED,
    LAST,
    Reads,
    after_layers,
    build_network,
    layers_of,
    read_architecture,
    repeated_layers,
    width_of,
)
from chiasma.model.encoders.encoder import Encoder, EncoderSettings
from chiasma.model.encoders.layered import Layered, parameter_depths
from chiasma.model.encoders.lora import Lora, adapt, merged_weights, without_adapters
from chiasma.model.encoders.published_weights import load_published_weights, weight_files, weights_sha256
from chiasma.model.recompute import Passage


class Backbone(Spec):
    """What was found under the name of a pretrained model, so that its architecture can be built without it.

    Attributes:
        architecture: Its configuration, as transformers understands it.
        weights: SHA-256 of its weights.
        tokenizer: Hash of its tokenizer; None where it has none.
    """

    architecture: Mapping[str, Any]
    weights: str
    tokenizer: str | None = None

    @property
    def model_type(self) -> str:
        """Return what kind of model it is, in transformers' words."""
        return str(self.architecture["model_type"])

    @property
    def words(self) -> str:
        """Return it for people: ``distilbert (weights 0123456789ab)``."""
        return f"{self.model_type} (weights {self.weights[:12]})"


class PretrainedEncoder(Encoder, Layered):
    """A pretrained backbone, and a trainable linear map of its tokens to the model's width.

    Of an image the patches or cells of the grid come out, after the class token where there is one; of a text one
    token an id. They are the backbone's last hidden state; CLIP's image tokens pass its final norm, as its class token
    does in CLIP itself. What does not train is in evaluation mode, whatever mode the model is in.

    Args:
        dim: Width D of the tokens.
        spec: Which backbone, and what of it trains.
        input: What the data look like.
    """

    def __init__(self, dim: int, spec: "Pretrained", input: ImageInput | TextInput) -> None:
        super().__init__()
        assert spec.backbone is not None
        self.spec = spec
        self.backbone = build_network(spec.backbone.architecture, spec.name)
        # Before adapters, which a backbone's own list of layers does not name.
        final_norm = _norm_of_all_tokens(self.backbone, spec.backbone.model_type)
        self._learning = _thaw(self.backbone, spec)
        self._passage = Passage()
        self._recomputed = _recomputable(self.backbone)
        self.project = nn.Linear(width_of(self.backbone), dim)
        self.padding = input.padding if isinstance(input, TextInput) else None
        self.mean: Tensor
        self.deviation: Tensor
        mean, deviation = (input.mean, input.deviation) if isinstance(input, ImageInput) else (None, None)
        # Not saved: they are the data's, and come with its signature.
        self.register_buffer("mean", torch.tensor(mean or 0.0).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation or 1.0).reshape(-1, 1, 1), persistent=False)
        self.final_norm = final_norm
        self.train()

    def forward(self, inputs: Tensor | Tokens) -> Tokens:
        """Return the backbone's tokens in the model's width, or one in all if pooled."""
        assert isinstance(inputs, Tensor)
        with self._passage.through(self._recomputed):
            tokens = self.see(inputs) if inputs.is_floating_point() else self.read(inputs)
        chosen = self._pooled(tokens)
        return Tokens(self.project(chosen.x), chosen.mask)

    def see(self, images: Tensor) -> Tokens:
        """Return the tokens of images ``B C P P`` in 0..1, in the backbone's width."""
        hidden = self.backbone(pixel_values=(images - self.mean) / self.deviation).last_hidden_state
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        if self.final_norm is not None:
            hidden = self.backbone.get_submodule(self.final_norm)(hidden)
        return Tokens(hidden, hidden.new_ones(hidden.shape[:2], dtype=torch.bool))

    def read(self, ids: Tensor) -> Tokens:
        """Return the tokens of texts, in the backbone's width.

        Args:
            ids: ``B L``, each one higher than the tokenizer's own, 0 for padding.
        """
        mask = ids != 0
        attended = mask.clone()
        # An empty row looks at its own padding: attention to nothing is not a number in some kernels.
        attended[:, 0] |= ~mask.any(1)
        own = torch.where(mask, ids - SHIFT, self.padding or 0)
        return Tokens(self.backbone(input_ids=own, attention_mask=attended.long()).last_hidden_state, mask)

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """Change the mode of what trains; dropout and statistics of what does not stay as in evaluation."""
        super().train(mode)
        if self.spec.freeze != "none":
            self.backbone.eval()
            for name in self._learning:
                self.backbone.get_submodule(name).train(mode)
        return self

    def load_published(self) -> None:
        """Replace the backbone's fresh weights by the published ones.

        Raises:
            ConfigError: They cannot be had, or are not those of the design.
        """
        found = self.spec.backbone
        assert found is not None
        plain = self.backbone
        if self.spec.lora is not None:
            with kept_torch_generator():
                plain = build_network(found.architecture, self.spec.name)
        load_published_weights(
            plain,
            found.architecture,
            name=self.spec.name,
            revision=self.spec.revision,
            sha256=found.weights,
        )
        if self.spec.lora is not None:
            own, published = self.backbone.state_dict(), plain.state_dict()
            around = {name: published[before] for name, before in without_adapters(own).items()}
            self.backbone.load_state_dict({**own, **around}, strict=True)

    def depths(self) -> dict[str, int]:
        """Return how deep the backbone's learning parameters lie; nothing where it is not plain what its layers are."""
        layers = repeated_layers(self.backbone)
        if not layers:
            return {}
        name, _ = layers_of(self.backbone)
        return parameter_depths(self.backbone, (name, len(layers)), prefix="backbone")

    def merged(self) -> dict[str, Tensor]:
        """Return this encoder's weights with its adapters added into the backbone's."""
        rest = {name: value for name, value in self.state_dict().items() if not name.startswith("backbone.")}
        return rest | {f"backbone.{name}": value for name, value in merged_weights(self.backbone).items()}

    def _pooled(self, tokens: Tokens) -> Tokens:
        assert self.spec.backbone is not None
        if self.spec.pool == "cls" and self.spec.backbone.model_type in LAST:
            last = (tokens.mask.sum(1) - 1).clamp(min=0)
            rows = torch.arange(len(last), device=last.device)
            return Tokens.single(tokens.x[rows, last], tokens.present())
        return pooled(tokens, self.spec.pool)


class Pretrained(EncoderSettings):
    """An image or text backbone from the Hugging Face hub or a local folder.

    Attributes:
        name: A folder in the layout of ``save_pretrained``, or a name of the hub: ``openai/clip-vit-base-patch32``.
        revision: Branch, tag or commit on the hub; None for its main branch.
        freeze: Train nothing of it (``all``), everything (``none``), or its last layers with the final norm
            (``last_n``). What leads to the model's width always trains.
        trainable_layers: With ``last_n``, how many layers train; of a ResNet its stages count.
        lora: Low-rank adapters that learn inside of a frozen backbone (``freeze=all``); None for none.
        pool: Return all tokens, only the class token (of CLIP's texts the end of the text), or the mean.
        backbone: What was found under the name; filled in when a design is made, and part of it from then on.
    """

    accepts: ClassVar[tuple[type[Spec], ...]] = (ImageInput, TextInput)

    kind: Literal["pretrained"] = "pretrained"
    name: str = Field(min_length=1)
    revision: str | None = None
    freeze: Literal["all", "none", "last_n"] = "all"
    trainable_layers: int = Field(default=2, ge=1)
    lora: Lora | None = None
    pool: Literal["none", "cls", "mean"] = "none"
    backbone: Backbone | None = None

    @model_validator(mode="after")
    def _adapters_alone(self) -> "Pretrained":
        if self.lora is not None and self.freeze != "all":
            raise ValueError(f"with lora only the adapters learn, so it needs freeze=all, but freeze={self.freeze}")
        return self

    def found(self, reads: Reads) -> "Pretrained":
        """Return the same with what is found under its name; with its own where it was found before.

        Args:
            reads: Whether it is to encode images or texts.

        Raises:
            ConfigError: It cannot be had, or is no such model.
        """
        if self.backbone is not None:
            return self
        folder = published_folder(self.name, revision=self.revision, files=SMALL_FILES)
        architecture = read_architecture(folder, reads=reads, name=self.name)
        weights = weights_sha256(weight_files(self.name, revision=self.revision))
        has_tokenizer = reads == "text" and (folder / "tokenizer_config.json").is_file()
        tokenizer = read_tokenizer(Published(name=self.name, revision=self.revision)).sha256 if has_tokenizer else None
        backbone = Backbone(architecture=architecture, weights=weights, tokenizer=tokenizer)
        return self.model_copy(update={"backbone": backbone})

    def check(self, modality: str, input: ImageInput | TextInput | TokensInput) -> None:
        """Refuse data that were prepared for something else.

        Raises:
            ConfigError: Says which setting is to be changed.
        """
        where = f"encoders.{modality}"
        if self.backbone is None:
            raise ConfigError(f"{where}: it is not known yet what {self.name} is: use spec.found({modality!r}).")
        if self.pool == "cls" and self.backbone.model_type not in FIRST | LAST:
            raise ConfigError(
                f"{where}: pool=cls needs a class token, and {self.backbone.model_type} is not known to have one. Use "
                "mean or none."
            )
        if isinstance(input, ImageInput):
            self._check_images(where, input, self.backbone)
        elif isinstance(input, TextInput):
            self._check_texts(where, input, self.backbone)

    def _check_images(self, where: str, input: ImageInput, backbone: Backbone) -> None:
        if input.mean is None:
            raise ConfigError(
                f"{where}: {self.name} sees images as its image processor prepares them, but these data were prepared "
                f"without one: data.image_processor={self.name}, and no data.image_size."
            )
        side = backbone.architecture.get("image_size")
        sides = (side, side) if isinstance(side, int) else tuple(side or ())
        if sides and backbone.model_type not in INTERPOLATED and sides != (input.height, input.width):
            raise ConfigError(
                f"{where}: {self.name} sees images of {sides[1]} x {sides[0]} pixels, but the image processor of the "
                f"data makes {input.width} x {input.height}: data.image_processor={self.name}."
            )

    def _check_texts(self, where: str, input: TextInput, backbone: Backbone) -> None:
        if input.tokenizer is None or backbone.tokenizer not in (None, input.tokenizer):
            what = "word pieces of their own" if input.tokenizer is None else "another tokenizer"
            raise ConfigError(
                f"{where}: {self.name} reads ids of its own tokenizer, but these data were prepared with {what}: "
                f"data.tokenizer={self.name}."
            )
        most = backbone.architecture.get("max_position_embeddings")
        if isinstance(most, int) and input.length > most:
            raise ConfigError(
                f"{where}: {self.name} reads {most} ids at most, but the texts of the data have {input.length}: "
                f"data.text_length={most}."
            )
        words = backbone.architecture.get("vocab_size")
        if isinstance(words, int) and input.vocabulary - SHIFT > words:
            raise ConfigError(
                f"{where}: {self.name} knows {words:,} ids, but the tokenizer of the data has "
                f"{input.vocabulary - SHIFT:,}."
            )

    def build(self, dim: int, input: ImageInput | TextInput | TokensInput) -> Encoder:
        """Return the encoder with fresh weights; nothing is read from the folder or the hub.

        Raises:
            ConfigError: The backbone has fewer layers than are to train.
        """
        assert isinstance(input, ImageInput | TextInput)
        return PretrainedEncoder(dim, self, input)


def load_published(model: nn.Module) -> None:
    """Give every pretrained backbone in a model its published weights.

    Raises:
        ConfigError: They cannot be had, or are not those of the design.
    """
    for module in model.modules():
        if isinstance(module, PretrainedEncoder):
            module.load_published()


def _recomputable(backbone: nn.Module) -> list[nn.Module]:
    """Return the layers that keep something for the backward pass and may be computed again without a trace."""
    return [layer for layer in repeated_layers(backbone) if _learns(layer) and not _counts_batches(layer)]


def _learns(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


def _counts_batches(layer: nn.Module) -> bool:
    """Return whether a layer holds means over batches, which a second look at a batch would move twice."""
    return any(isinstance(module, _BatchNorm) for module in layer.modules())


def _thaw(backbone: nn.Module, spec: Pretrained) -> tuple[str, ...]:
    """Let those parts of a backbone learn that should, and return their names; none where everything learns."""
    for name, parameter in backbone.named_parameters():
        # Stands for hidden patches in pretraining alone: it never gets a gradient.
        parameter.requires_grad_(name.rpartition(".")[2] != "mask_token")
    if spec.freeze == "none":
        return ()
    backbone.requires_grad_(False)
    if spec.lora is not None:
        return adapt(backbone, spec.lora, layers=layers_of(backbone)[0], name=spec.name)
    if spec.freeze == "all":
        return ()
    name, layers = layers_of(backbone)
    first = len(layers) - spec.trainable_layers
    if first < 0:
        raise ConfigError(f"{spec.name} has {len(layers)} layers, but trainable_layers={spec.trainable_layers}.")
    learning = {f"{name}.{place}": layers[place] for place in range(first, len(layers))}
    learning |= dict(after_layers(backbone, name))
    for module in learning.values():
        module.requires_grad_(True)
    return tuple(learning)


def _norm_of_all_tokens(backbone: nn.Module, model_type: str) -> str | None:
    """Return the name of the norm that CLIP applies to its class token alone; None for every other model."""
    if model_type != "clip_vision_model":
        return None
    return next(name for name, _ in backbone.named_modules() if name.rpartition(".")[2] == "post_layernorm")
