"""Tokens made once by a frozen encoder, or elsewhere, for ``--features``."""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiasma.core.errors import ConfigError, DataError
from chiasma.core.files import write_atomic
from chiasma.core.spec import suggestion
from chiasma.data.batch import Sample
from chiasma.data.decoding import image_path
from chiasma.data.features import Features, FeatureStore, import_file
from chiasma.data.image import decode, decode_file, fitted, from_array, quiet_decoding
from chiasma.data.manifest import Table, read
from chiasma.experiment.beginning import run_cache
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console, stoppable
from chiasma.experiment.runs import find_model
from chiasma.experiment.saved import SavedModel
from chiasma.model.multimodal import MultimodalModel

PIXELS = "pixels"
_SIDE, _PATCH = 16, 4

Content = str | Path | np.ndarray


@dataclass(frozen=True)
class Extractor:
    """A frozen encoder.

    Attributes:
        name: With its settings.
        weights: Hash of its weights; empty where it has none.
        preprocessing: Hash of what is done before.
        encode: From ``b`` contents to tokens ``b N D``.
    """

    name: str
    weights: str
    preprocessing: str
    encode: Callable[[list[Any]], np.ndarray]


def extract_features(
    config: RunConfig, extractor: str, *, modality: str, out: Path, console: Console
) -> dict[str, Any]:
    """Encode every image or text of the data once and write the tokens; an interrupted run continues.

    Args:
        config: Its data section says what is encoded.
        extractor: ``pixels`` (shrunken pictures in patches), or a run whose trained encoder is used.
        modality: ``image`` or ``text``.
        out: An ``npz`` or ``safetensors`` file.
        console: Where progress goes.

    Returns:
        What was done, for people.

    Raises:
        ConfigError: There is no such extractor, or ``out`` has another ending.
        DataError: The data have no such modality, or nothing in it can be read.
    """
    if out.suffix not in (".npz", ".safetensors"):
        raise ConfigError(f"-o must end in .npz or .safetensors, but got {out}.")
    table = read(config.data)
    max_pixels = config.data.max_pixels
    chosen = _pixels(modality, max_pixels) if extractor == PIXELS else _trained(extractor, modality, config)
    ids, contents, skipped = _readable(table, modality, max_pixels=max_pixels)
    store = FeatureStore(
        run_cache(config) / "features", encoder=chosen.name, weights=chosen.weights, preprocessing=chosen.preprocessing
    )
    with quiet_decoding():
        fresh = store.extract(contents, chosen.encode, progress=stoppable(console))
    found = store.features(contents, ids)
    if modality == "text":
        # A model zeroes the tokens that its mask excludes, so that the mask can be read off them.
        found = Features(found.ids, found.tokens, (found.tokens != 0).any(-1))
    save_features(found, out)
    shape = found.tokens.shape
    return {
        "rows": shape[0],
        "tokens a row": f"{shape[1]} of width {shape[2]}",
        "encoded now": fresh,
        "could not be read": skipped,
        "written to": str(out),
        "use them": f"chiasma train {config.data.source} --features {modality}={out}",
    }


def import_features(config: RunConfig, pair: str, *, out: Path | None = None) -> dict[str, Any]:
    """Check tokens made elsewhere against the data's ids, and write those that are needed where ``out`` is given.

    Args:
        config: Its data section says which rows need tokens.
        pair: ``MODALITY=FILE``.
        out: An ``npz`` or ``safetensors`` file for the rows of the data alone.

    Returns:
        What was found, for people.

    Raises:
        ConfigError: ``pair`` is not of this form.
        DataError: The file cannot be used, or no row of the data has tokens in it.
    """
    modality, equals, file = pair.partition("=")
    if not equals or not modality:
        raise ConfigError(f"--import {pair}: expected MODALITY=FILE, such as image=tokens.npz.")
    given = import_file(Path(file))
    rows = {str(identity) for identity in read(config.data).frame["id"]}
    keep = [place for place, identity in enumerate(given.ids) if identity in rows]
    if not keep:
        raise DataError(
            f"No row of {config.data.source} has tokens in {file}: its ids look like {given.ids[0]!r}, "
            f"those of the data like {min(rows)!r}.{suggestion(given.ids[0], sorted(rows)[:1000])}"
        )
    summary = {
        "rows in the file": len(given.ids),
        "rows of the data with tokens": len(keep),
        "rows of the data without": len(rows) - len(keep),
        "tokens a row": f"{given.tokens.shape[1]} of width {given.tokens.shape[2]}",
        "use them": f"chiasma train {config.data.source} --features {modality}={out or file}",
    }
    if out is not None:
        save_features(_selected(given, keep), out)
    return summary


def save_features(features: Features, out: Path) -> None:
    """Write tokens as ``safetensors`` or ``npz``, as the file's name says."""
    if out.suffix == ".safetensors":
        features.save(out)
        return
    arrays: Mapping[str, Any] = {"mask": features.mask, "boxes": features.boxes}
    buffer = io.BytesIO()
    present = {name: value for name, value in arrays.items() if value is not None}
    np.savez(buffer, tokens=features.tokens, id=np.array(features.ids), **present)
    write_atomic(out, buffer.getvalue())


def _selected(features: Features, places: list[int]) -> Features:
    return Features(
        tuple(features.ids[place] for place in places),
        features.tokens[places],
        None if features.mask is None else features.mask[places],
        None if features.boxes is None else features.boxes[places],
    )


def _readable(table: Table, modality: str, *, max_pixels: int) -> tuple[list[str], list[Content], int]:
    """Return ids and contents of the rows that have this modality and can be read, and how many cannot."""
    if modality not in ("image", "text"):
        raise ConfigError(f"--modality must be image or text, but got {modality!r}.")
    ids: list[str] = []
    contents: list[Content] = []
    usable: dict[str, bool] = {}
    skipped = 0
    for identity, value in zip(table.frame["id"], table.frame[modality], strict=True):
        if value is None:
            continue
        content = value if modality == "text" else _image(table, str(value), max_pixels)
        key = str(value)
        if key not in usable:
            usable[key] = modality == "text" or _decodes(content, max_pixels)
        if usable[key] and content is not None:
            ids.append(str(identity))
            contents.append(content)
        else:
            skipped += 1
    if not ids:
        raise DataError(f"No row has a {modality} that can be read; {skipped} could not be.")
    return ids, contents, skipped


def _image(table: Table, name: str, max_pixels: int) -> Content | None:
    if name in table.arrays:
        held = table.arrays[name]
        return _decoded(held, max_pixels) if isinstance(held, bytes) else held
    return None if table.image_root is None else image_path(name, table.image_root)


def _decoded(data: bytes, max_pixels: int) -> np.ndarray | None:
    try:
        with quiet_decoding():
            return np.asarray(decode(data, max_pixels=max_pixels))
    except DataError:
        return None


def _decodes(content: Content | None, max_pixels: int) -> bool:
    if content is None:
        return False
    if isinstance(content, np.ndarray):
        return True
    try:
        with quiet_decoding():
            decode_file(Path(content), max_pixels=max_pixels)
    except DataError:
        return False
    return True


def _pixels(modality: str, max_pixels: int) -> Extractor:
    if modality != "image":
        raise ConfigError(f"--extractor pixels reads images, but --modality is {modality}.")

    def encode(contents: list[Any]) -> np.ndarray:
        images = [
            from_array(content) if isinstance(content, np.ndarray) else decode_file(content, max_pixels=max_pixels)
            for content in contents
        ]
        small = np.stack([fitted(image, height=_SIDE, width=_SIDE, fit="pad") for image in images]) / 255.0
        count = _SIDE // _PATCH
        patches = small.reshape(len(images), 3, count, _PATCH, count, _PATCH).transpose(0, 2, 4, 1, 3, 5)
        return patches.reshape(len(images), count * count, 3 * _PATCH * _PATCH)

    return Extractor(f"pixels {_SIDE} in patches of {_PATCH}", "", "pad", encode)


def _trained(reference: str, modality: str, config: RunConfig) -> Extractor:
    saved = SavedModel.load(find_model(reference, config.run.folder), device=config.run.device)
    encoders = saved.model.spec.encoders
    if modality not in encoders:
        raise ConfigError(
            f"--extractor {reference}: its model reads {', '.join(encoders)}, but --modality is {modality}."
        )
    model = saved.model
    if not isinstance(model, MultimodalModel):
        raise ConfigError(
            f"--extractor {reference}: its model runs in the jail, which gives no tokens; approve its source."
        )
    weights = hashlib.sha256()
    for name, value in sorted(model.encoders[modality].state_dict().items()):
        weights.update(name.encode() + value.cpu().contiguous().numpy().tobytes())

    def encode(contents: list[Any]) -> np.ndarray:
        samples = [Sample(str(place), {modality: content}) for place, content in enumerate(contents)]
        batch = saved.encode(samples).to(next(model.parameters()).device)
        with torch.inference_mode():
            tokens = model.encoders[modality](batch.inputs[modality]).only(batch.present[modality])
        return tokens.x.float().cpu().numpy()

    spec = saved.preprocessing.spec
    tokenizer = b"".join(saved.preprocessing.files().values())
    preprocessing = hashlib.sha256(spec.to_json().encode() + tokenizer).hexdigest()
    return Extractor(encoders[modality].to_json(), weights.hexdigest(), preprocessing, encode)
