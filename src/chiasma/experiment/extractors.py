"""Which extractor a user means: one of the table, of a third party, or the trained encoder of a run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, suggestion
from chiasma.data.batch import Sample
from chiasma.data.feature_store import Encoded
from chiasma.experiment.config import RunConfig
from chiasma.experiment.runs import find_model
from chiasma.experiment.saved import SavedModel
from chiasma.model.components import members
from chiasma.model.encoders.extractor import (
    Extractor,
    ExtractorPlugin,
    ExtractorSettings,
    Identity,
    Place,
    check_reads,
    resolve_extractor,
)
from chiasma.model.multimodal import MultimodalModel
from chiasma.model.plugins import installed
from chiasma.train.devices import PRECISIONS, pick_device

_BATCH = 64


@dataclass(frozen=True)
class Opened:
    """An extractor that is ready.

    Attributes:
        modality: What it reads.
        batch_size: How many at once suit it.
    """

    extractor: Extractor
    modality: str
    batch_size: int


def extractor_names() -> list[str]:
    """Return what ``--extractor`` may be called beside a run: our own, then those that are installed."""
    return [*_ours(), *sorted(installed(ExtractorPlugin.group))]


def open_extractor(
    config: RunConfig, name: str, *, modality: str | None, weights: str | None, options: Mapping[str, Any]
) -> Opened:
    """Return an extractor with its weights.

    Args:
        config: On what device it computes, with what precision, how long texts are, and where runs are.
        name: One of :func:`extractor_names`, or a run.
        modality: What it is to read; None for whatever it reads.
        weights: Folder, file or name; None for its own.
        options: Its other settings.

    Raises:
        ConfigError: There is none of that name, it reads something else, or a setting or its weights are wrong.
    """
    if modality not in (None, "image", "text"):
        raise ConfigError(f"--modality must be image or text, but got {modality!r}.")
    given = dict(options) if weights is None else {**options, "weights": weights}
    if name not in extractor_names():
        return _of_a_run(name, modality, config, given)
    settings = chosen_settings(name, given)
    check_reads(settings, modality or settings.reads, name=name)
    place = Place(
        device=pick_device(config.run.device),
        dtype=PRECISIONS[config.run.precision],
        length=config.data.text_length,
    )
    return Opened(settings.build(place), settings.reads, settings.batch_size)


def chosen_settings(name: str, given: Mapping[str, Any]) -> ExtractorSettings:
    """Return the spec of an extractor of the table or of a third party.

    Raises:
        ConfigError: It has no such setting.
    """
    ours = _ours()
    if name in ours:
        found = ours[name].from_dict(dict(given), where=f"--extractor {name}")
        assert isinstance(found, ExtractorSettings)
        return found
    return resolve_extractor(ExtractorPlugin.from_dict({"name": name, "options": dict(given)}))


def _ours() -> dict[str, type[Spec]]:
    return {member.model_fields["kind"].default: member for member in members("extractor")}


def _of_a_run(name: str, modality: str | None, config: RunConfig, given: Mapping[str, Any]) -> Opened:
    known = extractor_names()
    try:
        folder = find_model(name, config.run.folder)
    except ConfigError:
        raise ConfigError(
            f"--extractor {name}: it is neither an extractor nor a run.{suggestion(name, known)} "
            f"Known: {', '.join(known)}, and runs with a model (chiasma list runs)."
        ) from None
    if given:
        words = ", ".join("--weights" if key == "weights" else key for key in given)
        raise ConfigError(f"--extractor {name} is a run, which has its own weights and settings: leave out {words}.")
    return trained_extractor(SavedModel.load(folder, device=config.run.device), modality or "image", name=name)


def trained_extractor(saved: SavedModel, modality: str, *, name: str) -> Opened:
    """Return the encoder of a trained model as an extractor.

    Raises:
        ConfigError: It has no such encoder, or none that gives tokens.
    """
    encoders = saved.model.spec.encoders
    if modality not in encoders:
        raise ConfigError(f"--extractor {name}: its model reads {', '.join(encoders)}, but --modality is {modality}.")
    if not isinstance(saved.model, MultimodalModel):
        raise ConfigError(f"--extractor {name}: its model runs in the jail, which gives no tokens; approve its source.")
    return Opened(TrainedExtractor(saved, saved.model, modality), modality, _BATCH)


class TrainedExtractor(Extractor):
    """The encoder of a trained model.

    Args:
        saved: The model with its preprocessing.
        model: The same model.
        modality: Which of its encoders.
    """

    def __init__(self, saved: SavedModel, model: MultimodalModel, modality: str) -> None:
        self.saved = saved
        self.model = model
        self.modality = modality

    @property
    def identity(self) -> Identity:
        """Return the encoder's spec, weights and preprocessing."""
        weights = hashlib.sha256()
        for name, value in sorted(self.model.encoders[self.modality].state_dict().items()):
            weights.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        preprocessing = self.saved.preprocessing
        files = b"".join(preprocessing.files().values())
        read = hashlib.sha256(preprocessing.spec.to_json().encode() + files).hexdigest()
        return Identity(self.model.spec.encoders[self.modality].to_json(), weights.hexdigest(), read)

    def prepare(self, content: Image.Image | str) -> Any:
        """Return what a sample holds: pixels, or the text."""
        return content if isinstance(content, str) else np.asarray(content)

    def encode(self, prepared: list[Any]) -> Encoded:
        """Return the encoder's tokens."""
        samples = [Sample(str(place), {self.modality: content}) for place, content in enumerate(prepared)]
        batch = self.saved.encode(samples).to(next(self.model.parameters()).device)
        with torch.inference_mode():
            tokens = self.model.encoders[self.modality](batch.inputs[self.modality])
            tokens = tokens.only(batch.present[self.modality])
        boxes = None if tokens.boxes is None else tokens.boxes.float().cpu().numpy()
        return Encoded(tokens.x.float().cpu().numpy(), tokens.mask.cpu().numpy(), boxes)
