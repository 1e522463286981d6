"""The weights of a pretrained backbone: found, hashed, read without running anything, and put into its network."""

import functools
import hashlib
import logging
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from chiasma.core.errors import ConfigError, CorruptFileError
from chiasma.core.files import read_json, sha256_file
from chiasma.core.rng import kept_torch_generator
from chiasma.data.published import published_folder
from chiasma.model.encoders.backbone import network_class, without_pooler

SAFE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = "model-*-of-*.safetensors"
PICKLED = "pytorch_model.bin"

_SHOWN = 6
_log = logging.getLogger(__name__)


def weight_files(name: str, *, revision: str | None) -> list[Path]:
    """Return the files that hold the weights of a published model; safetensors where there are any.

    Raises:
        ConfigError: The folder has none, or one of them is missing; or as in ``published_folder``.
    """
    folder = published_folder(name, revision=revision, files=(SAFE, INDEX, SHARDS))
    if (folder / SAFE).is_file():
        return [folder / SAFE]
    if (folder / INDEX).is_file():
        return _shards(folder)
    folder = published_folder(name, revision=revision, files=(PICKLED,))
    if (folder / PICKLED).is_file():
        return [folder / PICKLED]
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    raise ConfigError(
        f"{folder} holds no weights: it must have {SAFE} (or {PICKLED}), but has {', '.join(names) or 'nothing'}. "
        "Where transformers can load them: model.save_pretrained(FOLDER)."
    )


def _shards(folder: Path) -> list[Path]:
    try:
        index = read_json(folder / INDEX)
    except CorruptFileError as error:
        raise ConfigError(f"{folder / INDEX} cannot be read: {error}") from None
    # Only the last part of each name: an index must not lead out of its folder.
    paths = [folder / name for name in sorted({Path(str(name)).name for name in index.get("weight_map", {}).values()})]
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{folder} lacks {path.name}, which {INDEX} lists.")
    return paths


def weights_sha256(files: Sequence[Path]) -> str:
    """Return a hash of the bytes of all files."""
    parts = [_file_sha256(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load_published_weights(
    network: nn.Module, architecture: Mapping[str, Any], *, name: str, revision: str | None, sha256: str
) -> None:
    """Give a network the weights that were published under a name.

    Args:
        network: Built from ``architecture``.
        architecture: What ``read_architecture`` returned.
        name: A folder, or a name of the hub.
        revision: Branch, tag or commit on the hub.
        sha256: The hash that its files must have.

    Raises:
        ConfigError: They cannot be had, are not those that were named, hold more than tensors, or lack a weight.
    """
    files = weight_files(name, revision=revision)
    found = weights_sha256(files)
    if found != sha256:
        raise ConfigError(
            f"The weights of {name} are not those of this design: their SHA-256 is {found[:16]}..., but "
            f"{sha256[:16]}... is expected. Put the old files back, or begin anew."
        )
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors |= read_tensors(path)
    fill(network, architecture, tensors, name=name)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of weights, from which nothing is run: of a pickle the strided float tensors alone.

    Raises:
        ConfigError: The file is damaged, or is a pickle of something else.
    """
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ConfigError(f"The weights {path} are damaged: {_first_line(error)}") from None
    values = read_values(path)
    plain = isinstance(values, dict) and all(isinstance(value, Tensor) for value in values.values())
    if not plain or any(value.layout != torch.strided for value in values.values()):
        raise ConfigError(f"The weights {path} must be strided tensors by name, but the file holds something else.")
    # Whole numbers in old files are positions, which are not learned.
    return {str(name): value for name, value in values.items() if value.is_floating_point()}


def read_values(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds, as long as that is tensors and plain values; nothing of it is run.

    Raises:
        ConfigError: The file is damaged, or a pickle of something else.
    """
    try:
        with warnings.catch_warnings():
            # Torch warns of pickles that it did not write; they are read or refused all the same.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        raise ConfigError(
            f"The weights {path} are damaged, or a pickle of more than tensors, which is never run: "
            f"{_first_line(error)}"
        ) from None


def fill(network: nn.Module, architecture: Mapping[str, Any], tensors: dict[str, Tensor], *, name: str) -> None:
    """Put tensors into a network by the names that transformers gives them, old ones included.

    Raises:
        ConfigError: A weight of the network is missing, or has another shape.
    """
    found, config = network_class(architecture, name)
    unused = fill_class(network, found, config, tensors, name=name, **without_pooler(found))
    numbers = sum(value.numel() for value in network.parameters())
    _log.info("%s: %s weights loaded; not needed: %s", name, f"{numbers:,}", some(unused) if unused else "nothing")


def fill_class(
    network: nn.Module, found: Any, config: Any, tensors: dict[str, Tensor], *, name: str, **building: Any
) -> list[str]:
    """Do the same for a network of a class of transformers, and return the names of what was not needed.

    Args:
        network: Built from ``config``.
        found: Its class.
        config: Its configuration.
        tensors: By the names that transformers gives them.
        name: For messages.
        building: What else the class was told.

    Raises:
        ConfigError: A weight of the network is missing, or has another shape.
    """
    with kept_torch_generator(), quiet_loading():
        filled, told = found.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **building,
        )
    weights = filled.state_dict()
    missing = [key for key in sorted(told["missing_keys"]) if key in weights and weights[key].is_floating_point()]
    if missing:
        raise ConfigError(f"The weights of {name} lack {some(missing)}: it is not the model that its config.json says.")
    if told["mismatched_keys"]:
        wrong = [
            f"{key} {list(theirs)} instead of {list(ours)}" for key, theirs, ours in sorted(told["mismatched_keys"])
        ]
        raise ConfigError(f"The weights of {name} have other shapes than its config.json says: {some(wrong)}.")
    network.load_state_dict(weights, strict=True)
    return sorted(told["unexpected_keys"])


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from drawing bars and tables: what matters of them becomes our own message."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


@functools.lru_cache(maxsize=64)
def _file_sha256(path: Path, size: int, changed: int) -> str:
    """Return the hash of a file's bytes, read once for a size and time of change."""
    del size, changed
    return sha256_file(path)


def some(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else f"{line}."
