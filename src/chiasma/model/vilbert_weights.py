"""ViLBERT's published weights: found, compared with a model weight by weight, put into it, and written back."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from chiasma.core.errors import ConfigError, CorruptFileError
from chiasma.core.files import read_json, storage_errors, write_json
from chiasma.data.published import Published, published_folder
from chiasma.data.signature import TokensInput
from chiasma.model.encoders.published_weights import SAFE, read_tensors, some, weight_files, weights_sha256
from chiasma.model.fusion.vilbert import ViLBERT
from chiasma.model.multimodal import MultimodalModel
from chiasma.model.vilbert_names import (
    FIRST,
    HEADS,
    IMAGE,
    PREFIX,
    UNUSED,
    WORDS,
    flattened,
    published_config,
    published_names,
    setting_of,
)

ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
WHERE = "https://dl.fbaipublicfiles.com/vilbert-multi-task/pretrained_model.bin"
_OURS = "The weights %s are not this ViLBERT's:"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """Published weights under our names.

    Attributes:
        state: The weights.
        matched: Our name of each, and what it is called in the file.
        ignored: Heads of other tasks and what the published code itself never reads, by their names in the file.
        fresh: Weights of ours that begin from scratch because the design says so.
    """

    state: Mapping[str, Tensor]
    matched: Mapping[str, str]
    ignored: tuple[str, ...]
    fresh: tuple[str, ...]

    @property
    def words(self) -> str:
        """Return what came of it, for people."""
        numbers = sum(value.numel() for value in self.state.values())
        heads = sorted({head for head in (*HEADS, *UNUSED) for name in self.ignored if f".{head}." in f".{name}"})
        fresh = f"; from scratch, because model.fusion.fresh_image=true: {some(self.fresh)}" if self.fresh else ""
        return (
            f"{len(self.matched)} tensors with {numbers:,} numbers matched; "
            f"not needed: {some(heads) if heads else 'nothing'}{fresh}"
        )


def found(spec: ViLBERT, dim: int) -> ViLBERT:
    """Return the same with the hash of the weights that it names; with its own where they were found before.

    Raises:
        ConfigError: They cannot be had, or their configuration is of another architecture.
    """
    if spec.weights is None or spec.weights.sha256 is not None:
        return spec
    files = vilbert_files(spec.weights)
    _compare_config(spec, dim, files[0].parent)
    known = spec.weights.checked(weights_sha256(files), what="weights file")
    return spec.model_copy(update={"weights": known})


def vilbert_files(source: Published) -> list[Path]:
    """Return the files that hold published weights: the one that is named, or those of a folder or of the hub.

    Raises:
        ConfigError: There are none.
    """
    path = Path(source.name).expanduser()
    if path.suffix in ENDINGS:
        if not path.is_file():
            raise ConfigError(
                f"model.fusion.weights: the file {path} does not exist. Where there is a network: curl --create-dirs "
                f"-o {source.name} {WHERE}; or name another file: --set model.fusion.weights=FILE."
            )
        return [path]
    files = weight_files(source.name, revision=source.revision)
    if not path.is_dir():
        published_folder(source.name, revision=source.revision, files=("*.json",))
    return files


def load_vilbert(model: MultimodalModel) -> Conversion | None:
    """Give a model with a ViLBERT the published weights that its design names; nothing where it names none.

    Raises:
        ConfigError: They cannot be had, are not those of the design, or are of another architecture.
    """
    spec = model.spec.fusion
    if not isinstance(spec, ViLBERT) or spec.weights is None:
        return None
    files = vilbert_files(spec.weights)
    spec.weights.checked(weights_sha256(files), what="weights file")
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors |= {name: value for name, value in read_tensors(path).items() if value.is_floating_point()}
    done = converted(tensors, model, name=spec.weights.name)
    with torch.no_grad():
        own = dict(model.named_parameters())
        for name, value in done.state.items():
            own[name].copy_(value)
    _log.info("%s: %s", spec.weights.name, done.words)
    for ours, theirs in done.matched.items():
        _log.debug("%s <- %s", ours, theirs)
    return done


def converted(tensors: Mapping[str, Tensor], model: MultimodalModel, *, name: str) -> Conversion:
    """Return published weights under the names of a model; each must have its counterpart, and the other way round.

    Args:
        tensors: By their names in the file.
        model: Whose encoders and fusion they are for.
        name: Of the file, for messages.

    Raises:
        ConfigError: Says in one line what is missing, left over, or of another shape.
    """
    fusion = model.spec.fusion
    assert isinstance(fusion, ViLBERT)
    prefix, called = _without_prefix(tensors, name)
    theirs = {key: tensors[original] for key, original in called.items()}
    names = published_names(fusion)
    own = {key: value for key, value in model.state_dict().items() if key.startswith(("encoders.", "fusion."))}
    begun = _reads_anew(model, fusion, theirs)
    fresh = tuple(key for key in own if begun and key.startswith(IMAGE))
    wanted = {key: names.get(key, key) for key in own if key not in fresh}
    left = {key for key in theirs if key not in set(wanted.values()) and not _is_needless(key)}
    left -= {key for key in left if begun and key.startswith("v_embeddings.")}
    missing = [prefix + key for key in wanted.values() if key not in theirs]
    state, wrong = _shaped({ours: theirs[key] for ours, key in wanted.items() if key in theirs}, own, wanted, prefix)
    faults = [
        *([f"they lack {some(missing)}"] if missing else []),
        *([f"they also have {some([prefix + key for key in sorted(left)])}"] if left else []),
        *([some(wrong)] if wrong else []),
    ]
    if faults:
        raise ConfigError(f"{_OURS % name} {'; '.join(faults)}.")
    ignored = tuple(sorted(original for key, original in called.items() if _is_needless(key)))
    return Conversion(state, {ours: called[key] for ours, key in wanted.items()}, ignored, fresh)


def published_state(model: MultimodalModel) -> dict[str, Tensor]:
    """Return the weights of a model's ViLBERT under the published names; :func:`load_vilbert` reads them back.

    Raises:
        ConfigError: The model has no ViLBERT, or reads images otherwise.
    """
    fusion = model.spec.fusion
    if not isinstance(fusion, ViLBERT):
        kind = "none" if fusion is None else fusion.kind
        raise ConfigError(f"Only a ViLBERT has published names, but the model's fusion is {kind}.")
    own = {key: value for key, value in model.state_dict().items() if key.startswith(("encoders.", "fusion."))}
    names = published_names(fusion)
    if set(own) != set(names):
        raise ConfigError(
            f"The model differs from a published ViLBERT in {some(sorted(set(own) ^ set(names)))}: there are no names."
        )
    rows = {key: value[1:] if key == WORDS else value for key, value in own.items()}
    return {PREFIX + names[key]: value.detach().cpu().contiguous().clone() for key, value in rows.items()}


def save_published(model: MultimodalModel, folder: Path) -> None:
    """Write a model's ViLBERT in the published naming: ``model.safetensors`` and ``config.json``.

    Raises:
        ConfigError: As in :func:`published_state`.
        StorageError: The folder cannot be written to.
    """
    state = published_state(model)
    fusion, image = model.spec.fusion, model.signature.inputs["image"]
    assert isinstance(fusion, ViLBERT)
    assert isinstance(image, TokensInput)
    sizes = {
        "vocab_size": len(state[PREFIX + FIRST]),
        "max_position_embeddings": len(state[f"{PREFIX}embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(state[f"{PREFIX}embeddings.token_type_embeddings.weight"]),
        "v_feature_size": image.dim,
    }
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / SAFE, metadata={"format": "pt"})
    write_json(folder / "config.json", published_config(fusion, model.spec.dim) | sizes)


def _compare_config(spec: ViLBERT, dim: int, folder: Path) -> None:
    """Refuse weights whose configuration lies beside them and says something else than the settings."""
    for path in sorted(folder.glob("*.json")):
        try:
            config = read_json(path)
        except (CorruptFileError, OSError):
            continue
        told = flattened(config) if isinstance(config, dict) else {}
        if not {"bi_hidden_size", "v_hidden_size"} <= set(told):
            continue
        for key, ours in published_config(spec, dim).items():
            if key in told and told[key] != ours:
                raise ConfigError(
                    f"{path} says {key}={_shown(told[key])}, but the settings make it {_shown(ours)}: "
                    f"{setting_of(key)}."
                )


def _without_prefix(tensors: Mapping[str, Tensor], name: str) -> tuple[str, dict[str, str]]:
    """Return the prefix of a file's names, and each by what it is without it, norms as they are called today."""
    first = [key for key in tensors if key.endswith(FIRST)]
    if len(first) != 1:
        shown = some(sorted(tensors)) if tensors else "nothing"
        raise ConfigError(f"{_OURS % name} one name must end in {FIRST}, but {len(first)} do; there is {shown}.")
    prefix = first[0].removesuffix(FIRST)
    outer = prefix.removesuffix(PREFIX)
    called = {}
    for key in tensors:
        inner = key.removeprefix(prefix) if key.startswith(prefix) else key.removeprefix(outer)
        for old, today in ((".gamma", ".weight"), (".beta", ".bias")):
            inner = inner.removesuffix(old) + today if inner.endswith(old) else inner
        called[inner] = key
    return prefix, called


def _is_needless(key: str) -> bool:
    return key.startswith(tuple(f"{head}." for head in HEADS)) or any(f".{each}." in key for each in UNUSED)


def _reads_anew(model: MultimodalModel, fusion: ViLBERT, theirs: Mapping[str, Tensor]) -> bool:
    """Return whether images are of another kind than the published ones, and the design allows to begin anew there."""
    image, published = model.signature.inputs["image"], theirs.get("v_embeddings.image_embeddings.weight")
    if not isinstance(image, TokensInput) or published is None:
        return fusion.fresh_image
    return fusion.fresh_image and not (image.boxes and published.shape[1:] == (image.dim,))


def _shaped(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], names: Mapping[str, str], prefix: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights as ours are shaped, and those that have another shape, in words."""
    state, wrong = {}, []
    for ours, value in given.items():
        if ours == WORDS and value.ndim == 2:
            value = torch.cat([value.new_zeros(1, value.shape[1]), value])
        if value.shape != own[ours].shape:
            shapes = [list(each.shape) for each in (given[ours], own[ours])]
            if ours == WORDS:
                shapes[1][0] -= 1
            wrong.append(f"{prefix}{names[ours]} is {shapes[0]} instead of {shapes[1]}")
        state[ours] = value.float()
    return state, wrong


def _shown(value: Any) -> str:
    return json.dumps(value)
