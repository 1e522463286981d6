"""What a search for attention mechanisms begins with: the slot, the design around it, and what it is measured by."""

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.data.signature import Signature
from chiasma.experiment.config import ModelSection, RunConfig
from chiasma.model.attention import DotProduct, Mean
from chiasma.model.encoders import Bert, ViT
from chiasma.model.fusion import Early
from chiasma.model.multimodal import FUSED, ModelSpec
from chiasma.search.attention_space import attention_slots, short_slot, slot_named
from chiasma.train.design import Design

USUAL_PARTS: dict[str, ViT | Bert | Early] = {
    "image": ViT(stem="convolution", depth=2, pool="mean"),
    "text": Bert(depth=2, pool="mean"),
    "fusion": Early(depth=2),
}
"""What stands around a slot where the settings say nothing."""


def slot_path(config: RunConfig, signature: Signature) -> str:
    """Return the dotted path of the slot that is searched.

    Raises:
        ConfigError: The data have no such modality, or only one, so that nothing is fused.
    """
    both = all(name in signature.inputs for name in FUSED)
    part, _, _ = (config.search.slot or "").partition(".")
    part = part or ("fusion" if both else next(iter(signature.inputs)))
    if part == "fusion" and not both:
        raise ConfigError(
            f"search.slot: fusion.attention needs images and texts, but the data have only "
            f"{', '.join(signature.inputs)}."
        )
    if part != "fusion" and part not in signature.inputs:
        raise ConfigError(
            f"search.slot: the data have no {part}, only {', '.join(signature.inputs)}, so {part}.attention is nowhere."
        )
    return slot_named(f"{part}.attention")


def around_slot(config: RunConfig, signature: Signature) -> RunConfig:
    """Return the settings with a model that has the slot, with standard attention in it.

    Raises:
        ConfigError: The settings name a part without attention for the slot.
    """
    path = slot_path(config, signature)
    owner = path.removeprefix("model.").removesuffix(".attention")
    name = owner.rpartition(".")[2]
    asked = config.model.fusion if name == "fusion" else config.model.encoders.get(name)
    section = config.model
    if asked is None:
        known, usual = section.to_dict(), USUAL_PARTS[name].to_dict()
        parts = {"fusion": usual} if name == "fusion" else {"encoders": {**known["encoders"], name: usual}}
        section = ModelSection.from_dict(known | parts)
    model = section.complete(signature)
    design = Design(model=model)
    if path not in attention_slots(design):
        found = asked.kind if asked is not None else "left out"
        raise ConfigError(
            f"search.slot: model.{owner} is {found!r}, which has no attention. Name a part that has, such as "
            f"--set model.{owner}.kind={USUAL_PARTS[name].kind}."
        )
    return with_slot(config, replace_at(design, path, DotProduct()).model, path, signature)


def with_slot(config: RunConfig, model: ModelSpec, path: str, signature: Signature) -> RunConfig:
    """Return the settings of a search for one part of a whole model: nothing in it is left to be chosen."""
    known = model.to_dict()
    left_out = {modality: None for modality in signature.inputs if modality not in known["encoders"]}
    settable = {name: known[name] for name in ModelSection.model_fields}
    whole = ModelSection.from_dict({**settable, "encoders": {**known["encoders"], **left_out}})
    searched = config.search.model_copy(update={"slot": short_slot(path)})
    return config.model_copy(update={"model": whole, "search": searched})


def baselines(design: Design, path: str) -> dict[str, tuple[Design, str]]:
    """Return what every mechanism is measured by: standard attention, and what is left when nothing is looked at."""
    place = short_slot(path)
    return {
        "standard": (design, f"standard scaled dot-product attention in {place}"),
        "mean": (replace_at(design, path, Mean()), f"the mean of the values in place of attention in {place}"),
    }
