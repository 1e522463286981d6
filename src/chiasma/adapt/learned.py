"""What a controller knows, as a folder that later trainings begin with: JSON and safetensors, nothing pickled."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from chiasma.adapt.controls import NAMES
from chiasma.adapt.signals import INPUTS
from chiasma.core.errors import ConfigError, StorageError
from chiasma.core.spec import Spec, canonical_json
from chiasma.store.checkpoint import Checkpoint, load_newest, save_checkpoint
from chiasma.train.controlling import LSTMController

FORMAT = 1
DOCUMENT = "controller"
TENSORS = "controller"


class Card(Spec):
    """What a saved controller says of itself.

    Attributes:
        format: Version of the folder's layout.
        hidden: Width of its LSTM.
        layers: Of its LSTM.
        inputs: What it looks at, in order.
        outputs: What it sets, in order.
        normal: Statistics of its inputs (:class:`chiasma.adapt.signals.Normaliser`).
        scale: Usual size of an improvement.
        runs: Trainings that it has learned from.
        facts: Where it comes from.
    """

    format: int = FORMAT
    hidden: int
    layers: int
    inputs: tuple[str, ...] = INPUTS
    outputs: tuple[str, ...] = NAMES
    normal: Mapping[str, tuple[float, ...]] = {}
    scale: float = 0.0
    runs: int = 0
    facts: Mapping[str, Any] = {}

    def check(self, spec: LSTMController, *, where: str) -> None:
        """Refuse a controller that the settings do not fit.

        Raises:
            ConfigError: Names what differs, and both values.
        """
        for name, wanted in (("hidden", spec.hidden), ("layers", spec.layers)):
            if (found := getattr(self, name)) != wanted:
                raise ConfigError(
                    f"controller.start: {where} was learned with {name}={found}, but the settings have "
                    f"{name}={wanted}: --set controller.{name}={found}."
                )
        for name, found, wanted in (("inputs", self.inputs, INPUTS), ("outputs", self.outputs, NAMES)):
            if found != wanted:
                raise ConfigError(
                    f"controller.start: {where} has the {name} {', '.join(found)}, but this version has "
                    f"{', '.join(wanted)}. Learn it again: chiasma meta-train."
                )


@dataclass(frozen=True)
class Knowledge:
    """What a controller has learned.

    Attributes:
        card: What it is.
        tensors: Weights and moments.
    """

    card: Card
    tensors: Mapping[str, Tensor]

    def save(self, folder: Path) -> str:
        """Write it, keep the one before until it verifies, and return the hash of its content.

        Raises:
            StorageError: The folder cannot be written to.
        """
        documents = {DOCUMENT: self.card.to_dict()}
        save_checkpoint(folder, self.card.runs, tensors={TENSORS: self.tensors}, documents=documents, keep=1)
        return content_of(folder)


def load_knowledge(folder: Path) -> Knowledge:
    """Return what :meth:`Knowledge.save` wrote; every byte is checked.

    Raises:
        StorageError: There is no controller, or a newer version wrote it.
        CorruptFileError: A file is not what was written.
    """
    found = _newest(folder)
    card = Card.from_dict(found.documents[DOCUMENT], where=f"{folder}: {DOCUMENT}")
    if card.format > FORMAT:
        raise StorageError(
            f"{folder} has format {card.format}, but this version reads up to {FORMAT}. Upgrade chiasma."
        )
    return Knowledge(card, found.tensors(TENSORS))


def content_of(folder: Path) -> str:
    """Return 16 hexadecimal digits that are equal exactly for equal controllers.

    Raises:
        StorageError: There is none.
        CorruptFileError: A file is not what was written.
    """
    files = {name: entry.sha256 for name, entry in _newest(folder).manifest.files.items()}
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()[:16]


def knowledge_for(spec: LSTMController) -> Knowledge | None:
    """Return what a controller begins with, if its settings name something that fits them.

    Raises:
        ConfigError: It is another one than when the settings were made, or does not fit them.
        StorageError: There is none.
    """
    if spec.start is None:
        return None
    folder = Path(spec.start)
    known = load_knowledge(folder)
    content = content_of(folder)
    if content != spec.content:
        raise ConfigError(
            f"controller.start: {folder} holds the controller {content}, but the settings are about {spec.content}: "
            "it has been changed since."
        )
    known.card.check(spec, where=str(folder))
    return known


def _newest(folder: Path) -> Checkpoint:
    found = load_newest(folder)
    if found is None:
        raise StorageError(f"{folder} holds no controller. Learn one: chiasma meta-train --to {folder}")
    if DOCUMENT not in found.documents or TENSORS not in found.tensor_names:
        raise StorageError(f"{folder} holds a checkpoint, but not one of a controller.")
    return found
