"""The architecture of a pretrained backbone, built by transformers from its configuration alone."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from chiasma.core.errors import ConfigError, CorruptFileError
from chiasma.core.files import read_json
from chiasma.data.published import INSTALL

Reads = Literal["image", "text"]

MAIN_INPUT: Mapping[Reads, str] = {"image": "pixel_values", "text": "input_ids"}
INNER: Mapping[Reads, str] = {"image": "vision_config", "text": "text_config"}

_FIRST = """
albert beit bert camembert clip_vision_model data2vec-text data2vec-vision deberta deberta-v2 deit dinov2
dinov2_with_registers dinov3_vit distilbert electra ernie modernbert mpnet roberta vit vit_msn xlm-roberta
"""
FIRST = frozenset(_FIRST.split())
"""Kinds of model whose first token stands for the whole input."""

LAST = frozenset({"clip_text_model"})
"""Kinds of model whose last token, the end of the text, stands for the whole."""

INTERPOLATED = frozenset({"dinov2", "dinov2_with_registers", "dinov3_vit"})
"""Kinds of model whose positions fit images of every size."""

RANDOM = frozenset({"vit_mae"})
"""Kinds of model that hide parts of what they see at random, even when they only look."""

PICTURE = 256
"""Height and width of a picture on which a network can be tried."""

_NOT_SHAPE = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "torch_dtype",
    "transformers_version",
)


def read_architecture(folder: Path, *, reads: Reads, name: str) -> dict[str, Any]:
    """Return the configuration of the part of a published model that reads images or texts, as plain JSON.

    Raises:
        ConfigError: There is no configuration, transformers does not know it, or the model reads something else.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"{folder} holds no model: config.json is missing.")
    try:
        whole = read_json(file)
    except CorruptFileError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    inner = whole.get(INNER[reads])
    if isinstance(inner, dict):
        # Of two towers the one that reads this; an old file may leave its kind out.
        whole = {"model_type": f"{whole.get('model_type')}_{INNER[reads].removesuffix('_config')}_model", **inner}
    config = _config(whole, name)
    kept = {key: value for key, value in config.to_dict().items() if key not in _NOT_SHAPE}
    if "vision_use_head" in kept:
        kept["vision_use_head"] = False
    if config.model_type in RANDOM:
        raise ConfigError(
            f"{name} ({config.model_type}) hides patches at random even when it only looks, so that it would say "
            "something else of the same image each time. Its encoder alone, saved as a vit, can be used."
        )
    main = _class_of(config, name).main_input_name
    if main != MAIN_INPUT[reads]:
        raise ConfigError(f"{name} ({config.model_type}) reads {main}, so that it cannot encode {reads}s.")
    return kept


def build_network(architecture: Mapping[str, Any], name: str) -> nn.Module:
    """Return a backbone with fresh weights from torch's global generator, without parts that make no tokens.

    Args:
        architecture: What :func:`read_architecture` returned.
        name: For messages.
    """
    found, config = network_class(architecture, name)
    return found(config, **without_pooler(found))


def network_class(architecture: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """Return the class of a backbone and its configuration."""
    config = _config(architecture, name)
    return _class_of(config, name), config


def without_pooler(found: Any) -> dict[str, Any]:
    """Return what a class must be told so that it builds nothing behind its tokens."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(found.__init__).parameters else {}


def width_of(network: nn.Module) -> int:
    """Return the width of a backbone's tokens; of one that does not say so, it is seen on a picture without contents.

    Raises:
        ConfigError: It cannot be seen.
    """
    config: Any = network.config
    if said := getattr(config, "hidden_size", None):
        return int(said)
    if sizes := getattr(config, "hidden_sizes", None):
        return int(sizes[-1])
    # As large as any was trained on: networks that shrink it many times make nothing of a small one.
    picture = torch.empty(1, getattr(config, "num_channels", 3), PICTURE, PICTURE)
    try:
        with torch.no_grad():
            tokens = copy.deepcopy(network).eval().to("meta")(pixel_values=picture.to("meta")).last_hidden_state
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"It cannot be seen how wide the tokens of {config.model_type} are: {error}") from error
    return int(tokens.shape[1] if tokens.ndim == 4 else tokens.shape[-1])


def layers_of(network: nn.Module) -> tuple[str, list[nn.Module]]:
    """Return the name of the outermost list of layers of a backbone, and the layers.

    Raises:
        ConfigError: It has no list of layers, or several of which none is the longest.
    """
    found = _longest_lists(network)
    if len(found) != 1:
        how = "no list of layers" if not found else f"several lists of layers ({', '.join(found)})"
        raise ConfigError(f"{type(network).__name__} has {how}, so freeze must be all or none, not last_n.")
    return next(iter(found.items()))


def repeated_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers of a backbone; none where it is not plain which they are."""
    found = _longest_lists(network)
    return next(iter(found.values())) if len(found) == 1 else []


def after_layers(network: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the norms that follow the layers."""
    passed = False
    for path, module in network.named_modules():
        inside = path == name or path.startswith(f"{name}.")
        if passed and not inside and _is_norm(module):
            yield path, module
        passed = passed or inside


def _longest_lists(network: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the longest lists of modules among the outermost ones, by name."""
    found = {name: list(module) for name, module in network.named_modules() if isinstance(module, nn.ModuleList)}
    depth = min((name.count(".") for name in found), default=0)
    outermost = {name: layers for name, layers in found.items() if name.count(".") == depth}
    most = max(map(len, outermost.values()), default=0)
    return {name: layers for name, layers in outermost.items() if len(layers) == most}


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm that learns, ours or transformers' own."""
    return type(module).__name__.endswith("Norm") and next(module.parameters(recurse=False), None) is not None


def _config(values: Mapping[str, Any], name: str) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError:
        raise ConfigError(f"The backbone {name} needs transformers: {INSTALL}.") from None
    kind = values.get("model_type")
    rest = {key: value for key, value in values.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(str(kind), **rest)
    except ValueError:
        raise ConfigError(f"{name}: transformers knows no kind of model {kind!r} (config.json, model_type).") from None


def _class_of(config: Any, name: str) -> Any:
    """Return the class that makes tokens: of two halves the encoder."""
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    halved = getattr(config, "is_encoder_decoder", False)
    known: Any = MODEL_FOR_TEXT_ENCODING_MAPPING if halved else MODEL_MAPPING
    if type(config) not in known:
        raise ConfigError(f"{name}: transformers has no model of kind {config.model_type!r} that makes tokens.")
    found = known[type(config)]
    return found[0] if isinstance(found, tuple) else found
