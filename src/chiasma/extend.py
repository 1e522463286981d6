"""Add models and feature extractors of your own, and get any of them by name: see ``docs/extending.md``."""

from typing import Any

import torch
from torch import nn

from chiasma.core.errors import ConfigError
from chiasma.core.rng import kept_torch_generator
from chiasma.core.spec import suggestion
from chiasma.data.signature import Signature, Target, TextInput, TokensInput
from chiasma.experiment.compose import load_config, preset_names
from chiasma.experiment.extractors import chosen_settings, extractor_names
from chiasma.model.encoders.extractor import Extractor, Place
from chiasma.model.encoders.registered_extractors import (
    BaseFeatureExtractor,
    RegisteredExtractor,
    register_feature_extractor,
)
from chiasma.model.fusion import ViLBERT
from chiasma.model.plugins import plugin_names
from chiasma.model.registered_models import BaseMultimodalModel, RegisteredModel, register_model
from chiasma.model.whole import ModelPlugin
from chiasma.train.devices import pick_device

__all__ = [
    "BaseFeatureExtractor",
    "BaseMultimodalModel",
    "get_feature_extractor",
    "get_model",
    "list_available_extractors",
    "list_available_models",
    "register_feature_extractor",
    "register_model",
]

DOCUMENT_003 = {"vilbert_hf": "vilbert"}
"""Document 003's names that are other ones here."""

REGIONS, WIDTH, WORDS, LENGTH = 36, 2048, 30523, 128
"""What the published ViLBERT reads: regions of an image and their width, word pieces with padding, and words."""


def list_available_models() -> list[str]:
    """Return what :func:`get_model` knows: registered and installed models, then presets."""
    return [*plugin_names(ModelPlugin.group), *DOCUMENT_003, *preset_names()]


def list_available_extractors() -> list[str]:
    """Return what :func:`get_feature_extractor` knows: our own, then installed and registered ones."""
    return extractor_names()


def get_model(name: str, *, num_labels: int = 2, signature: Signature | None = None, **options: Any) -> nn.Module:
    """Return a model with fresh weights, by name.

    Args:
        name: One of :func:`list_available_models`.
        num_labels: Classes to tell apart, where no signature says so.
        signature: What the data look like; None for regions and words as the published ViLBERT reads them.
        options: Settings of a registered model.

    Returns:
        A registered model itself; of a preset a :class:`~chiasma.model.multimodal.MultimodalModel`.

    Raises:
        ConfigError: There is no such model, or it has no such setting; the nearest name is suggested.
    """
    seen = signature or _usual(num_labels)
    if name in plugin_names(ModelPlugin.group):
        built = ModelPlugin.from_dict({"name": name, "options": options}).build(seen)
        return built.model if isinstance(built, RegisteredModel) else built
    preset = DOCUMENT_003.get(name, name)
    if preset not in preset_names():
        known = list_available_models()
        raise ConfigError(f"There is no model {name!r}.{suggestion(name, known)} Known: {', '.join(known)}.")
    if options:
        raise ConfigError(f"{name} is a preset, which has no options here, but got {', '.join(options)}.")
    section = load_config(preset).model
    if isinstance(section.fusion, ViLBERT):
        # Published weights are read when a training begins: chiasma train --config.
        section = section.model_copy(update={"fusion": section.fusion.model_copy(update={"weights": None})})
    spec = section.complete(seen)
    with kept_torch_generator():
        return spec.build(seen)


def get_feature_extractor(name: str, *, device: str = "auto", **options: Any) -> BaseFeatureExtractor | Extractor:
    """Return a feature extractor with its weights, by name.

    Args:
        name: One of :func:`list_available_extractors`.
        device: Where it computes.
        options: Its settings, such as ``weights`` or ``output_dim``.

    Returns:
        A registered extractor itself; of the others what the feature store asks.

    Raises:
        ConfigError: There is no such extractor, it has no such setting, or its weights cannot be had.
    """
    known = list_available_extractors()
    if name not in known:
        raise ConfigError(f"There is no extractor {name!r}.{suggestion(name, known)} Known: {', '.join(known)}.")
    built = chosen_settings(name, options).build(Place(device=torch.device(pick_device(device))))
    return built.own if isinstance(built, RegisteredExtractor) else built


def _usual(num_labels: int) -> Signature:
    target = Target(task="classification", labels=tuple(str(label) for label in range(num_labels)))
    text = TextInput(vocabulary=WORDS, length=LENGTH)
    return Signature(inputs={"image": TokensInput(count=REGIONS, dim=WIDTH, boxes=True), "text": text}, target=target)
