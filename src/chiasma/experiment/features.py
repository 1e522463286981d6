"""Tokens made once by a frozen network, or elsewhere, for ``--features``."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.errors import ConfigError, DataError
from chiasma.core.files import write_atomic
from chiasma.data.fallbacks import with_fallbacks
from chiasma.data.feature_store import Content, FeatureStore
from chiasma.data.features import Features, import_file
from chiasma.data.image import decode, decode_file, from_array, quiet_decoding
from chiasma.data.inputs import match_rows
from chiasma.data.manifest import Table, read
from chiasma.experiment.beginning import run_cache
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console, stoppable
from chiasma.experiment.extractors import open_extractor
from chiasma.model.encoders.extractor import Extractor

ENDINGS = (".npz", ".safetensors")


def extract_features(
    config: RunConfig,
    extractor: str,
    *,
    modality: str | None = None,
    out: Path,
    console: Console,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Encode every image or text of the data once and write the tokens; an interrupted run continues.

    Args:
        config: Its data section says what is encoded, its run section where and in which arithmetic.
        extractor: One of ``chiasma list components``, or a run whose trained encoder is used.
        modality: ``image`` or ``text``; None for what the extractor reads.
        out: An ``npz`` or ``safetensors`` file.
        console: Where progress goes.
        weights: Folder, file or name of published weights; None for the extractor's own.
        options: Other settings of the extractor.
        batch_size: Images or texts at once; None for what suits the extractor.

    Returns:
        What was done, for people.

    Raises:
        ConfigError: There is no such extractor, its weights cannot be used, or ``out`` has another ending.
        DataError: The data have no such modality, or nothing in it can be read.
    """
    _check_out(out)
    opened = open_extractor(config, extractor, modality=modality, weights=weights, options=options or {})
    table = with_fallbacks(read(config.data), config.data, cache=run_cache(config), progress=console.status)
    ids, contents, outside = _contents(table, opened.modality, source=config.data.source)
    identity = opened.extractor.identity
    store = FeatureStore(
        run_cache(config) / "features",
        encoder=identity.name,
        weights=identity.weights,
        preprocessing=identity.preprocessing,
    )
    console.status(f"looking at {len(ids):,} {opened.modality}s")
    with quiet_decoding():
        done = store.extract(
            contents,
            opened.extractor.encode,
            prepare=_preparing(opened.extractor, config.data.max_pixels),
            batch_size=batch_size or opened.batch_size,
            progress=stoppable(console),
        )
    keep = [place for place in range(len(ids)) if place not in done.problems]
    if not keep:
        first = next(iter(done.problems.values()), "their names lead out of the image folder")
        raise DataError(f"No row has an {opened.modality} that can be read: {first}")
    found = _trimmed(store.gather([done.keys[place] for place in keep], [ids[place] for place in keep]))
    save_features(found, out)
    for reason in list(done.problems.values())[:3]:
        console.say(f"left out: {reason}")
    return {
        "rows": found.tokens.shape[0],
        "tokens a row": _shape(found),
        "encoded now": done.encoded,
        "could not be read": outside + len(done.problems),
        "kept in": str(store.folder),
        "written to": str(out),
        "use them": f"chiasma train {config.data.source} --features {opened.modality}={out}",
    }


def import_features(config: RunConfig, pair: str, *, out: Path | None = None) -> dict[str, Any]:
    """Check tokens made elsewhere against the data's ids, and write those that are needed where ``out`` is given.

    Ids name rows or images, as they may in ``--features``.

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
    if out is not None:
        _check_out(out)
    table = read(config.data)
    given = import_file(Path(file))
    position = {identity: number for number, identity in enumerate(given.ids)}
    index, scheme = match_rows(modality, table.frame, position, Path(file), example=given.ids[0])
    keep = sorted({int(place) for place in index if place >= 0})
    summary = {
        "rows in the file": len(given.ids),
        "used by the data": len(keep),
        "matched by": scheme,
        "rows of the data with tokens": int((index >= 0).sum()),
        "rows of the data without": int((index < 0).sum()),
        "tokens a row": _shape(given),
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


def _check_out(out: Path) -> None:
    if out.suffix not in ENDINGS:
        raise ConfigError(f"-o must end in {' or '.join(ENDINGS)}, but got {out}.")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"-o: the folder {out.absolute().parent} does not exist.")


def _shape(features: Features) -> str:
    with_boxes = "" if features.boxes is None else ", with boxes"
    return f"{features.tokens.shape[1]} of width {features.tokens.shape[2]}{with_boxes}"


def _trimmed(features: Features) -> Features:
    """Drop the places at the end at which no row has a token."""
    if features.mask is None:
        return features
    last = int(np.flatnonzero(features.mask.any(axis=0)).max(initial=0)) + 1
    boxes = None if features.boxes is None else features.boxes[:, :last]
    return Features(features.ids, features.tokens[:, :last], features.mask[:, :last], boxes)


def _contents(table: Table, modality: str, *, source: str) -> tuple[list[str], list[Content], int]:
    """Return ids and contents of the rows that have this modality, and how many names lead out of the image folder."""
    ids: list[str] = []
    contents: list[Content] = []
    outside = 0
    for identity, value in zip(table.frame["id"], table.frame[modality], strict=True):
        if value is None:
            continue
        content = str(value) if modality == "text" else _image(table, str(value))
        if content is None:
            outside += 1
            continue
        ids.append(str(identity))
        contents.append(content)
    if not ids:
        raise DataError(f"No row of {source} has an {modality} that can be read; {outside} lead out of its folder.")
    return ids, contents, outside


def _image(table: Table, name: str) -> Content | None:
    if name in table.arrays:
        return table.arrays[name]
    return None if table.image_root is None else table.image_file(name)


def _preparing(extractor: Extractor, max_pixels: int) -> Any:
    """Return what decodes a content and hands it to the extractor."""

    def prepare(content: Content) -> Any:
        if isinstance(content, str):
            return extractor.prepare(content)
        if isinstance(content, Path):
            return extractor.prepare(decode_file(content, max_pixels=max_pixels))
        if isinstance(content, bytes):
            return extractor.prepare(decode(content, max_pixels=max_pixels))
        return extractor.prepare(from_array(content))

    return prepare
