"""Let generated source run once the user names its hash, and only source that the user's own command holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasma.core.errors import StorageError
from chiasma.model.generated import generated_in
from chiasma.model.multimodal import ModelSpec
from chiasma.store.checkpoint import load_newest
from chiasma.store.trust import meant, trust_source


def trust(hashes: Sequence[str], places: Mapping[str, Any]) -> None:
    """Record that the user has read these sources and lets them run; until then they run in the jail.

    Args:
        hashes: Of the sources, or the beginnings of them.
        places: What the command is about: specs by the names that a user knows them by.

    Raises:
        ConfigError: A hash names nothing there, or several sources; those that are there are named.
        StorageError: The record cannot be written.
    """
    known = {part.sha256: name for name, spec in places.items() for part in generated_in(spec)}
    for sha256 in [meant(text, known, option="--trust") for text in hashes]:
        trust_source(sha256, named=known[sha256])


def spec_of_model(folder: Path) -> ModelSpec:
    """Return the architecture of a saved model, without building it.

    Raises:
        StorageError: There is no saved model.
    """
    checkpoint = load_newest(folder)
    if checkpoint is None:
        raise StorageError(f"{folder} holds no saved model.")
    return ModelSpec.from_dict(checkpoint.documents["model"])
