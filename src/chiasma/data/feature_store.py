"""Tokens of frozen encoders: made once for each content, and kept as memory-mapped shards."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chiasma.core.errors import DataError
from chiasma.core.files import storage_errors, sync_folder, write_json
from chiasma.core.spec import canonical_json
from chiasma.data.features import Features
from chiasma.data.mapped import save_array

Content = str | bytes | Path | np.ndarray
"""A text, the bytes of a file, a file, or pixels."""

PARTS = ("tokens", "mask", "boxes")

_THREADS = min(4, os.cpu_count() or 1)
_SHARD_BYTES = 64 * 2**20
_AHEAD = 2
"""Batches that are prepared while another one is encoded."""


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of ``b`` contents.

    Attributes:
        tokens: ``b N D`` floats.
        mask: ``b N`` booleans, True where a token counts; None where all do.
        boxes: ``b N 5``, ``x1 y1 x2 y2 area`` in parts of the image, or None.
    """

    tokens: np.ndarray
    mask: np.ndarray | None = None
    boxes: np.ndarray | None = None


@dataclass(frozen=True)
class Extraction:
    """What :meth:`FeatureStore.extract` did.

    Attributes:
        keys: Hash of each content; empty where it cannot be read.
        encoded: How many were encoded now.
        problems: Why a content has no tokens, by its position.
    """

    keys: tuple[str, ...]
    encoded: int
    problems: Mapping[int, str]


@dataclass
class _Shard:
    """What is encoded and not yet written."""

    keys: list[str] = field(default_factory=list)
    batches: list[dict[str, np.ndarray]] = field(default_factory=list)

    def add(self, pairs: Sequence[tuple[str, Any]], encode: Callable[[list[Any]], Encoded]) -> None:
        """Encode a batch, each content by its key."""
        if pairs:
            made = _checked(encode([value for _, value in pairs]), len(pairs))
            if self.batches:
                _check_alike(self.batches[0], made)
            self.batches.append(made)
            self.keys += [key for key, _ in pairs]

    @property
    def size(self) -> int:
        """Return how many bytes they take."""
        return sum(values.nbytes for batch in self.batches for values in batch.values())


class FeatureStore:
    """Tokens of one frozen encoder with their masks and boxes, found by the content they were made from.

    A changed image is another content, so that it alone is extracted again. A shard counts once its key file exists:
    what a kill leaves behind without one is not looked at.

    Args:
        folder: Where all encoders' tokens are kept.
        encoder: The encoder's name and settings.
        weights: Hash of its weights.
        preprocessing: Hash of what is done to a content before.
    """

    def __init__(self, folder: Path, *, encoder: str, weights: str, preprocessing: str) -> None:
        identity = {"encoder": encoder, "weights": weights, "preprocessing": preprocessing, "parts": list(PARTS)}
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

    def missing(self, contents: Sequence[Content]) -> list[int]:
        """Return the positions of the contents that have no tokens yet, each distinct content once."""
        return self._missing([content_hash(content) for content in contents])

    def extract(
        self,
        contents: Sequence[Content],
        encode: Callable[[list[Any]], Encoded],
        *,
        prepare: Callable[[Any], Any] = lambda content: content,
        batch_size: int = 64,
        shard_batches: int = 16,
        progress: Callable[[str], None] = lambda line: None,
    ) -> Extraction:
        """Make the tokens that are missing; after an interruption, call it again.

        Args:
            contents: What is to be encoded; equal ones are encoded once.
            encode: Takes a list of what ``prepare`` returned.
            prepare: Decodes and shrinks one content; called in several threads, ahead of ``encode``. A DataError of it
                leaves that content out.
            batch_size: Contents given to ``encode`` at once.
            shard_batches: Batches written together; what a kill costs at most.
            progress: Told how far it is; where it raises, what is encoded is written first.

        Raises:
            DataError: ``encode`` returned another shape than before, or a value that is not finite.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            keys, problems = _hashes(contents, pool)
            todo = self._missing(keys)
            refused: dict[str, str] = {}
            shard = _Shard()
            try:
                for done, batch, ready in _ahead(contents, todo, prepare, batch_size, pool):
                    pairs = [(keys[place], value) for place, value in zip(batch, ready, strict=True)]
                    refused |= {key: str(value) for key, value in pairs if isinstance(value, DataError)}
                    shard.add([(key, value) for key, value in pairs if not isinstance(value, DataError)], encode)
                    if len(shard.batches) >= shard_batches or shard.size >= _SHARD_BYTES:
                        full, shard = shard, _Shard()
                        self._write_shard(full)
                    progress(f"encoded {done:,} of {len(todo):,}")
            finally:
                # Also when the user stops: what was paid for is kept.
                self._write_shard(shard)
        problems |= {place: refused[key] for place, key in enumerate(keys) if key in refused}
        return Extraction(tuple(keys), len(todo) - len(refused), problems)

    def features(self, contents: Sequence[Content], ids: Sequence[str]) -> Features:
        """Return the tokens of contents that :meth:`extract` has seen.

        Raises:
            DataError: A content has no tokens.
        """
        return self.gather([content_hash(content) for content in contents], ids)

    def gather(self, keys: Sequence[str], ids: Sequence[str]) -> Features:
        """Return the tokens of contents by their hashes, which :meth:`extract` returned; errors as in it."""
        shards: dict[Path, dict[str, np.ndarray]] = {}
        found: dict[str, list[np.ndarray]] = {}
        for key, identity in zip(keys, ids, strict=True):
            place = self._places.get(key)
            if place is None:
                raise DataError(
                    f"{identity!r} has no tokens yet, or its content has changed since; extract them first."
                )
            shard, row = place
            if shard not in shards:
                shards[shard] = _opened(shard)
            for name, values in shards[shard].items():
                found.setdefault(name, []).append(values[row])
        arrays = {name: np.stack(rows) for name, rows in found.items()}
        return Features(tuple(ids), arrays["tokens"], arrays.get("mask"), arrays.get("boxes"))

    def _missing(self, keys: Sequence[str]) -> list[int]:
        first = {key: position for position, key in reversed(list(enumerate(keys))) if key}
        return sorted(position for key, position in first.items() if key not in self._places)

    def _write_shard(self, shard: _Shard) -> None:
        if not shard.keys:
            return
        arrays = {name: np.concatenate([batch[name] for batch in shard.batches]) for name in shard.batches[0]}
        if self._places:
            _check_alike(_opened(next(iter(self._places.values()))[0]), arrays)
        name = hashlib.sha256("".join(shard.keys).encode()).hexdigest()[:16]
        for part, values in arrays.items():
            path, temporary = self.folder / f"shard-{name}.{part}.npy", self.folder / f".{name}.{part}.{os.getpid()}"
            with storage_errors(path):
                try:
                    save_array(temporary, values)
                    os.replace(temporary, path)
                finally:
                    temporary.unlink(missing_ok=True)
        with storage_errors(self.folder):
            sync_folder(self.folder)
        listed = {"keys": shard.keys, "parts": list(arrays)}
        write_json(self.folder / f"shard-{name}.json", listed)
        self._remember(self.folder / f"shard-{name}.json", listed)

    def _remember(self, listed: Path, content: Mapping[str, Any]) -> None:
        self._places |= {key: (listed, row) for row, key in enumerate(content["keys"])}


def _check_alike(known: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray]) -> None:
    """Refuse tokens of another shape than those before.

    Raises:
        DataError: Names both shapes.
    """
    before, now = ({part: values.shape[1:] for part, values in arrays.items()} for arrays in (known, made))
    if before != now:
        parts = sorted(part for part in before.keys() | now.keys() if before.get(part) != now.get(part))
        part = "tokens" if "tokens" in parts else parts[0]
        raise DataError(f"The encoder must return {before.get(part)} {part} as before, but returned {now.get(part)}.")


def _opened(listed: Path) -> dict[str, np.ndarray]:
    """Return the parts of a shard, mapped into memory."""
    parts = json.loads(listed.read_text())["parts"]
    return {part: np.load(listed.with_suffix(f".{part}.npy"), mmap_mode="r", allow_pickle=False) for part in parts}


def _hashes(contents: Sequence[Content], pool: ThreadPoolExecutor) -> tuple[list[str], dict[int, str]]:
    """Return the hash of each content, empty where it cannot be read, and why not."""
    problems: dict[int, str] = {}

    def look(place: int) -> str:
        try:
            return content_hash(contents[place])
        except DataError as error:
            problems[place] = str(error)
            return ""

    return list(pool.map(look, range(len(contents)))), problems


def _ahead(
    contents: Sequence[Content],
    todo: Sequence[int],
    prepare: Callable[[Any], Any],
    batch_size: int,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[int, list[int], list[Any]]]:
    """Yield how many are done with a batch, its positions, and what was prepared of it, or the error instead."""

    def work(place: int) -> Any:
        try:
            return prepare(contents[place])
        except DataError as error:
            return error

    waiting: deque[tuple[list[int], list[Future[Any]]]] = deque()
    starts = iter(range(0, len(todo), batch_size))
    done = 0
    while True:
        while len(waiting) <= _AHEAD and (start := next(starts, None)) is not None:
            batch = list(todo[start : start + batch_size])
            waiting.append((batch, [pool.submit(work, place) for place in batch]))
        if not waiting:
            return
        batch, futures = waiting.popleft()
        done += len(batch)
        yield done, batch, [future.result() for future in futures]


def _checked(encoded: Encoded, count: int) -> dict[str, np.ndarray]:
    """Return what is kept of a batch.

    Raises:
        DataError: A shape is wrong, or a number is not finite.
    """
    tokens = np.asarray(encoded.tokens)
    if tokens.ndim != 3 or len(tokens) != count:
        raise DataError(f"The encoder must return {count} x N x D tokens, but returned {tokens.shape}.")
    with np.errstate(over="ignore"):
        halves = tokens.astype(np.float16)
    if not np.isfinite(halves).all():
        raise DataError("The encoder returned tokens that are not finite in float16.")
    kept: dict[str, np.ndarray] = {"tokens": halves}
    if encoded.mask is not None:
        kept["mask"] = np.asarray(encoded.mask, dtype=np.bool_)
    if encoded.boxes is not None:
        kept["boxes"] = np.asarray(encoded.boxes, dtype=np.float32)
    wanted = {"mask": tokens.shape[:2], "boxes": (*tokens.shape[:2], 5)}
    for part, shape in wanted.items():
        if part in kept and (kept[part].shape != shape or not np.isfinite(kept[part]).all()):
            raise DataError(f"The encoder must return finite {part} of {shape}, but returned {kept[part].shape}.")
    return kept


def content_hash(content: Content) -> str:
    """Return a hash of a text, of a file's bytes, or of pixels."""
    if isinstance(content, Path):
        try:
            content = content.read_bytes()
        except OSError as error:
            raise DataError(f"The file {content} cannot be read: {error.strerror}.") from None
    if isinstance(content, bytes):
        return hashlib.blake2b(b"file" + content, digest_size=16).hexdigest()
    if isinstance(content, str):
        return hashlib.blake2b(b"text" + content.encode(), digest_size=16).hexdigest()
    head = f"array{content.shape}{content.dtype}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(content).tobytes(), digest_size=16).hexdigest()
