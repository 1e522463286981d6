"""Tokens of frozen encoders: made once, kept as float16 shards, or imported from a file made elsewhere."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from chiasma.core.errors import DataError
from chiasma.core.files import storage_errors, sync_folder, write_json
from chiasma.core.spec import canonical_json
from chiasma.data.mapped import save_array
from chiasma.data.signature import TokensInput

Content = "str | Path | np.ndarray"


@dataclass(frozen=True)
class Features:
    """Tokens of ``n`` images or texts.

    Attributes:
        ids: What each belongs to.
        tokens: ``n N D`` float16.
        mask: ``n N`` booleans, True where a token counts; None where all do.
        boxes: ``n N 5`` float32, ``x1 y1 x2 y2 area`` in parts of the image, or None.
    """

    ids: tuple[str, ...]
    tokens: np.ndarray
    mask: np.ndarray | None = None
    boxes: np.ndarray | None = None

    def signature(self) -> TokensInput:
        """Return what a model's shape depends on."""
        return TokensInput(count=self.tokens.shape[1], dim=self.tokens.shape[2], boxes=self.boxes is not None)

    def save(self, path: Path) -> None:
        """Write a safetensors file that :func:`import_file` reads."""
        parts = {"tokens": self.tokens, "mask": self.mask, "boxes": self.boxes}
        with storage_errors(path):
            save_file(
                {k: v for k, v in parts.items() if v is not None}, path, metadata={"id": json.dumps(list(self.ids))}
            )


def import_file(path: Path) -> Features:
    """Read tokens made elsewhere: ``tokens`` and ``id``, and perhaps ``mask`` and ``boxes``.

    In ``npz`` the ids are an array of strings or integers; in ``safetensors`` they are a JSON list in the metadata
    entry ``id``, or an integer tensor. Nothing is unpickled.

    Raises:
        DataError: The file is missing, damaged, holds objects, has a wrong shape, repeats an id, or is not finite.
    """
    if not path.is_file():
        raise DataError(f"The feature file {path} does not exist.")
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(f"The feature file {path} must end in .npz or .safetensors, not {path.suffix!r}.")
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    for name in ("tokens", "id"):
        if name not in arrays:
            raise DataError(
                f"The feature file {path} must hold 'tokens' and 'id', but has {', '.join(sorted(arrays))}."
            )
    return _checked(path, arrays)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # NumPy leaves a file open that it opened itself and could not read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        if "pickle" in str(error):
            raise DataError(f"The feature file {path} holds Python objects, which are never loaded.") from None
        raise DataError(f"The feature file {path} is damaged: {str(error).splitlines()[0]}") from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: _to_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        if "id" in metadata:
            arrays["id"] = np.array([str(name) for name in json.loads(metadata["id"])])
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DataError(f"The feature file {path} is damaged: {str(error).splitlines()[0]}") from None
    return arrays


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _checked(path: Path, arrays: dict[str, np.ndarray]) -> Features:
    tokens, names = arrays["tokens"], arrays["id"]
    if tokens.ndim != 3 or tokens.dtype.kind != "f" or 0 in tokens.shape:
        raise DataError(f"'tokens' in {path} must be n x N x D floats, but is {tokens.shape} of {tokens.dtype}.")
    if names.shape != tokens.shape[:1] or names.dtype.kind not in "UiuS":
        raise DataError(
            f"'id' in {path} must be {len(tokens)} names, one a row, but is {names.shape} of {names.dtype}."
        )
    ids = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"'id' in {path} must name each row once, but {twice!r} occurs more than once.")
    with np.errstate(over="ignore"):
        halves = tokens.astype(np.float16, copy=False)
    finite = np.isfinite(halves).all(axis=(1, 2))
    if not finite.all():
        first = ids[int(np.argmin(finite))]
        raise DataError(f"'tokens' in {path} must be finite and within float16, but row {first!r} is not.")
    mask, boxes = arrays.get("mask"), arrays.get("boxes")
    if mask is not None and (mask.shape != tokens.shape[:2] or mask.dtype != np.bool_):
        raise DataError(f"'mask' in {path} must be {tokens.shape[:2]} booleans, but is {mask.shape} of {mask.dtype}.")
    if boxes is not None and (boxes.shape != (*tokens.shape[:2], 5) or not np.isfinite(boxes).all()):
        raise DataError(f"'boxes' in {path} must be finite and {(*tokens.shape[:2], 5)}, but is {boxes.shape}.")
    return Features(ids, halves, mask, None if boxes is None else boxes.astype(np.float32))


class FeatureStore:
    """Tokens of one frozen encoder, in memory-mapped float16 shards, found by the content they were made from.

    A changed image is another content, so that it alone is extracted again. A shard counts once its key file exists:
    what a kill leaves behind without one is not looked at.

    Args:
        folder: Where all encoders' tokens are kept.
        encoder: The encoder's name and settings.
        weights: Hash of its weights.
        preprocessing: Hash of what is done to a content before.
    """

    def __init__(self, folder: Path, *, encoder: str, weights: str, preprocessing: str) -> None:
        identity = {"encoder": encoder, "weights": weights, "preprocessing": preprocessing}
        self.key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]
        self.folder = folder / self.key
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "encoder.json", identity)
        self._places: dict[str, tuple[Path, int]] = {}
        for keys in sorted(self.folder.glob("shard-*.json")):
            self._remember(keys, json.loads(keys.read_text()))

    def __len__(self) -> int:
        return len(self._places)

    def missing(self, contents: "Sequence[str | Path | np.ndarray]") -> list[int]:
        """Return the positions of the contents that have no tokens yet, each distinct content once."""
        first = {content_hash(content): position for position, content in reversed(list(enumerate(contents)))}
        return sorted(position for name, position in first.items() if name not in self._places)

    def extract(
        self,
        contents: "Sequence[str | Path | np.ndarray]",
        encode: Callable[[list[Any]], np.ndarray],
        *,
        batch_size: int = 64,
        shard_batches: int = 16,
        progress: Callable[[str], None] = lambda line: None,
    ) -> int:
        """Make the tokens that are missing; after an interruption, call it again.

        Args:
            contents: Texts, image files, or pixel arrays.
            encode: Takes a list of contents and returns their tokens, ``b N D``.
            batch_size: Contents given to ``encode`` at once.
            shard_batches: Batches written together; what an interruption costs at most.
            progress: Told how far it is.

        Returns:
            How many contents were encoded.

        Raises:
            DataError: ``encode`` returned another shape than before, or a value that is not finite.
        """
        todo = self.missing(contents)
        size = batch_size * shard_batches
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            batches = [[contents[i] for i in part[at : at + batch_size]] for at in range(0, len(part), batch_size)]
            tokens = np.concatenate([self._encoded(batch, encode) for batch in batches])
            self._write_shard([content_hash(contents[i]) for i in part], tokens)
            progress(f"encoded {start + len(part):,} of {len(todo):,}")
        return len(todo)

    def features(self, contents: "Sequence[str | Path | np.ndarray]", ids: Sequence[str]) -> Features:
        """Return the tokens of contents that :meth:`extract` has seen.

        Raises:
            DataError: A content has no tokens.
        """
        rows: list[np.ndarray] = []
        shards: dict[Path, np.ndarray] = {}
        for content, identity in zip(contents, ids, strict=True):
            place = self._places.get(content_hash(content))
            if place is None:
                raise DataError(
                    f"{identity!r} has no tokens yet, or its content has changed since; extract them first."
                )
            shard, row = place
            if shard not in shards:
                shards[shard] = np.load(shard, mmap_mode="r", allow_pickle=False)
            rows.append(shards[shard][row])
        return Features(tuple(ids), np.stack(rows))

    def _encoded(self, batch: list[Any], encode: Callable[[list[Any]], np.ndarray]) -> np.ndarray:
        tokens = np.asarray(encode(batch))
        if tokens.ndim != 3 or len(tokens) != len(batch):
            raise DataError(f"The encoder must return {len(batch)} x N x D tokens, but returned {tokens.shape}.")
        with np.errstate(over="ignore"):
            halves = tokens.astype(np.float16)
        if not np.isfinite(halves).all():
            raise DataError("The encoder returned tokens that are not finite in float16.")
        return halves

    def _write_shard(self, names: list[str], tokens: np.ndarray) -> None:
        known = next(iter(self._places.values()), None)
        shape = tokens.shape[1:] if known is None else np.load(known[0], mmap_mode="r").shape[1:]
        if tokens.shape[1:] != shape:
            raise DataError(f"The encoder must return {shape} tokens as before, but returned {tokens.shape[1:]}.")
        name = hashlib.sha256("".join(names).encode()).hexdigest()[:16]
        shard, temporary = self.folder / f"shard-{name}.npy", self.folder / f".shard-{name}.{os.getpid()}.npy"
        with storage_errors(shard):
            try:
                save_array(temporary, tokens)
                os.replace(temporary, shard)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(self.folder)
        write_json(shard.with_suffix(".json"), names)
        self._remember(shard.with_suffix(".json"), names)

    def _remember(self, keys: Path, names: list[str]) -> None:
        self._places |= {name: (keys.with_suffix(".npy"), row) for row, name in enumerate(names)}


def content_hash(content: "str | Path | np.ndarray") -> str:
    """Return a hash of a text, of a file's bytes, or of pixels."""
    if isinstance(content, Path):
        try:
            return hashlib.blake2b(b"file" + content.read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            raise DataError(f"The file {content} cannot be read: {error.strerror}.") from None
    if isinstance(content, str):
        return hashlib.blake2b(b"text" + content.encode(), digest_size=16).hexdigest()
    head = f"array{content.shape}{content.dtype}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(content).tobytes(), digest_size=16).hexdigest()
