"""Files of detectors' weights: read without running anything, and refused unless every tensor has its place."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from chiasma.core.errors import ConfigError
from chiasma.model.encoders.published_weights import read_tensors, read_values, some

_COUNTER = "num_batches_tracked"
"""How many batches a norm has seen: nothing depends on it."""


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return the tensors of a checkpoint by name, and what else stands beside them.

    The tensors are the file's content, or its entry ``model``, as training scripts write it.

    Raises:
        ConfigError: The file is damaged, is a pickle of something else, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path), {}
    values = read_values(path)
    inner = values.get("model") if isinstance(values, Mapping) else None
    tensors, rest = (inner, values) if isinstance(inner, Mapping) else (values, {})
    plain = isinstance(tensors, Mapping) and all(isinstance(value, Tensor) for value in tensors.values())
    if not plain or not tensors or any(value.layout != torch.strided for value in tensors.values()):
        raise ConfigError(f"The weights {path} must be strided tensors by name, but the file holds something else.")
    return {str(name): value for name, value in tensors.items()}, cast("Mapping[str, Any]", rest)


def fill_strictly(
    network: nn.Module, tensors: Mapping[str, Tensor], *, what: str, path: Path, rename: Callable[[str], str] = str
) -> None:
    """Put tensors into a network whose names and shapes must be theirs.

    Args:
        network: Whatever it holds is replaced.
        tensors: By name.
        what: The architecture, for messages.
        path: Their file, for messages.
        rename: From an old name to the network's.

    Raises:
        ConfigError: Says what is missing, what is too much, and what has another shape.
    """
    given = {rename(name): value for name, value in tensors.items() if not name.endswith(_COUNTER)}
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTER)}
    shapes = [
        f"{name} is {list(given[name].shape)} instead of {list(wanted[name].shape)}"
        for name in sorted(given.keys() & wanted.keys())
        if given[name].shape != wanted[name].shape
    ]
    differences = [
        f"{word} {some(names)}"
        for word, names in (
            ("missing:", sorted(wanted.keys() - given.keys())),
            ("too much:", sorted(given.keys() - wanted.keys())),
            ("other shapes:", shapes),
        )
        if names
    ]
    if differences:
        raise ConfigError(f"The weights {path} are not those of {what}; {'; '.join(differences)}.")
    network.load_state_dict({name: value.float() for name, value in given.items()}, strict=True)
