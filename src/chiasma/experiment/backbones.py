"""What follows from naming a pretrained encoder: it is looked up once, and the data are prepared for it."""

from chiasma.core.errors import ConfigError
from chiasma.data.manifest import DataSpec, check_source
from chiasma.data.prepare import with_published
from chiasma.data.published import Published
from chiasma.experiment.captions import pinned
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.model.encoders import Pretrained
from chiasma.model.fusion import FusionSpec, ViLBERT
from chiasma.model.vilbert_inputs import NO_FEATURES
from chiasma.model.vilbert_weights import found

DATA_SETTING = {"text": "tokenizer", "image": "image_processor"}
"""By modality, the data setting that a pretrained encoder decides where the user does not."""


def with_backbones(config: RunConfig, console: Console) -> RunConfig:
    """Return settings in which everything published is known by its content, so that a run needs no name again.

    A pretrained encoder gets its architecture and the hash of its weights; where the data settings name no tokenizer
    or image processor, they become that encoder's, with a line that says so.

    Raises:
        ConfigError: Something published cannot be had or used.
        DataError: The data are not there; found out first, since it costs nothing.
    """
    check_source(config.data)
    data, encoders = config.data, dict(config.model.encoders)
    for modality, encoder in encoders.items():
        if not isinstance(encoder, Pretrained):
            continue
        known = encoder.backbone is not None
        encoder = encoder.found("text" if modality == "text" else "image")
        encoders[modality] = encoder
        data = _prepared_for(modality, encoder, data, console)
        if not known and encoder.backbone is not None:
            console.say(f"{modality} encoder: {encoder.name} is {encoder.backbone.words}")
    model = config.model.model_copy(update={"encoders": encoders, "fusion": _with_weights(config, console)})
    data = with_published(data).model_copy(update={"captions": pinned(data.captions)})
    return config.model_copy(update={"data": data, "model": model})


def _with_weights(config: RunConfig, console: Console) -> FusionSpec | None:
    """Return the fusion with what is found under the name of its published weights.

    Raises:
        ConfigError: They cannot be had, or nothing of the data is what they read.
    """
    fusion = config.model.fusion
    if not isinstance(fusion, ViLBERT) or fusion.weights is None:
        return fusion
    if "image" not in config.data.features and not fusion.fresh_image:
        raise ConfigError(f"data.features: {NO_FEATURES}")
    known = found(fusion, config.model.dim)
    if fusion.weights.sha256 is None and known.weights is not None:
        console.say(f"fusion: {known.weights.name} is a ViLBERT (weights {str(known.weights.sha256)[:12]})")
    return known


def _prepared_for(modality: str, encoder: Pretrained, data: DataSpec, console: Console) -> DataSpec:
    setting = DATA_SETTING.get(modality)
    chosen = setting is None or getattr(data, setting) is not None or modality in data.features
    if setting is None or chosen or (setting == "image_processor" and data.image_size is not None):
        return data
    console.say(f"data.{setting}={encoder.name}, because the {modality} encoder is that model")
    return data.model_copy(update={setting: Published(name=encoder.name, revision=encoder.revision)})
