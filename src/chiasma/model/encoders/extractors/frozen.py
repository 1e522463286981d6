"""Networks that others have trained, as extractors use them: whole, checked, and never trained again."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from chiasma.core.errors import ConfigError
from chiasma.core.rng import kept_torch_generator
from chiasma.data.published import SMALL_FILES, published_folder
from chiasma.model.encoders.backbone import Reads, build_network, read_architecture
from chiasma.model.encoders.extractor import Place
from chiasma.model.encoders.published_weights import load_published_weights, weight_files, weights_sha256


@dataclass(frozen=True)
class Frozen:
    """A network with its published weights.

    Attributes:
        network: In evaluation mode, on its device.
        architecture: Its configuration, as transformers understands it.
        weights: Hash of its weights.
    """

    network: Any
    architecture: dict[str, Any]
    weights: str


def load_frozen(name: str, revision: str | None, *, reads: Reads, kinds: Collection[str], place: Place) -> Frozen:
    """Return the encoder of a published model.

    Args:
        name: A folder, or a name of the hub.
        revision: Branch, tag or commit on the hub.
        reads: Of two towers the one that reads this.
        kinds: What it may be, in transformers' words.
        place: Where it computes.

    Raises:
        ConfigError: It cannot be had, is of another kind, or its weights do not fit its configuration.
    """
    folder = published_folder(name, revision=revision, files=SMALL_FILES)
    architecture = read_architecture(folder, reads=reads, name=name)
    check_kind(architecture["model_type"], kinds, name=name)
    weights = weights_sha256(weight_files(name, revision=revision))
    with kept_torch_generator():
        network = build_network(architecture, name)
    load_published_weights(network, architecture, name=name, revision=revision, sha256=weights)
    return Frozen(still(network, place), architecture, weights)


def check_kind(found: str, kinds: Collection[str], *, name: str) -> None:
    """Refuse a model of another kind.

    Raises:
        ConfigError: Names both.
    """
    if found not in kinds:
        wanted = " or ".join(sorted(kinds))
        raise ConfigError(
            f"--weights {name}: this extractor needs a model of kind {wanted}, but it is of kind {found}."
        )


def weights_file(name: str, *, where: str) -> Path:
    """Return a file of weights.

    Args:
        name: Its path.
        where: From where it can be had.

    Raises:
        ConfigError: There is no such file.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"The weights {path} are not here. Where there is a network, get them from {where}, bring the file here "
            "and name it: --weights FILE."
        )
    return path


def still(network: nn.Module, place: Place) -> nn.Module:
    """Return a network on its device, in evaluation mode, without gradients."""
    return network.to(place.device).eval().requires_grad_(False)
