"""Captions that a BLIP model writes: in batches, greedily, each image once, kept on disk as they come."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from chiasma.core.errors import ConfigError, CorruptFileError, DataError
from chiasma.core.files import read_json, storage_errors
from chiasma.core.rng import kept_torch_generator
from chiasma.data.captions import Captions, Describe, ImageSource
from chiasma.data.image import decode, from_array, quiet_decoding
from chiasma.data.published import INSTALL, SMALL_FILES, published_folder
from chiasma.data.published_images import read_image_processor
from chiasma.data.published_text import read_tokenizer
from chiasma.experiment.console import Console, SilentConsole
from chiasma.model.encoders.published_weights import (
    quiet_loading,
    read_tensors,
    weight_files,
    weights_sha256,
)
from chiasma.train.devices import pick_device

BATCH = 16
_log = logging.getLogger(__name__)


def pinned(captions: Captions | None) -> Captions | None:
    """Return the same with the hash of its model's weights, which from now on must be found under its name.

    Raises:
        ConfigError: The model cannot be had, or is another one than before.
    """
    if captions is None or captions.model is None or captions.model.sha256 is not None:
        return captions
    model = captions.model
    found = weights_sha256(weight_files(model.name, revision=model.revision))
    return captions.model_copy(update={"model": model.checked(found, what="captioner")})


def captioner(
    captions: Captions | None, *, cache: Path, device: str, max_pixels: int, console: Console | None = None
) -> Describe | None:
    """Return who writes captions, where the settings name a model; nothing is loaded before there is an image.

    Args:
        captions: The settings.
        cache: Folder below which captions are kept.
        device: Where the model runs.
        max_pixels: Larger images are not decoded.
        console: Where progress goes.

    Raises:
        ConfigError: The model cannot be had, or is another one than before.
    """
    known = pinned(captions)
    if known is None or known.model is None:
        return None
    return Captioner(known, cache=cache, device=device, max_pixels=max_pixels, console=console or SilentConsole())


class Captioner:
    """Writes captions with BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086), greedily.

    What is written is kept at once in one file for each model, by the hash of the image, so that work that is killed
    goes on where it was.

    Args:
        captions: With a model whose hash is known.
        cache: Folder below which captions are kept.
        device: Where the model runs.
        max_pixels: Larger images are not decoded.
        console: Where progress goes.
    """

    def __init__(self, captions: Captions, *, cache: Path, device: str, max_pixels: int, console: Console) -> None:
        assert captions.model is not None
        assert captions.model.sha256 is not None
        self.model = captions.model
        self.longest = captions.longest
        self.max_pixels = max_pixels
        self.console = console
        self._device = device
        self.file = cache / "captions" / f"{captions.model.sha256[:20]}-{captions.longest}.jsonl"
        self._known = dict(_kept(self.file))

    def __call__(self, sources: Sequence[ImageSource]) -> list[str | None]:
        """Return a caption for each image; None for one that cannot be read.

        Raises:
            ConfigError: The model cannot be had, or is another one than before.
            DataError: The user asked to stop; what is written is kept.
            StorageError: The cache cannot be written to.
        """
        digests = [_digest(source) for source in sources]
        missing = {d: s for d, s in zip(digests, sources, strict=True) if d is not None and d not in self._known}
        waiting = list(missing.items())
        for start in range(0, len(waiting), BATCH):
            if self.console.interrupted:
                raise DataError("Stopped while writing captions; those that are written are kept.")
            self._write(waiting[start : start + BATCH])
            self.console.status(f"captions: {min(start + BATCH, len(waiting)):,} of {len(waiting):,} images")
        return [None if digest is None else self._known.get(digest) for digest in digests]

    def _write(self, batch: Sequence[tuple[str, ImageSource]]) -> None:
        images: dict[str, Image.Image] = {}
        with quiet_decoding():
            for digest, source in batch:
                try:
                    images[digest] = _image(source, max_pixels=self.max_pixels)
                except DataError as error:
                    _log.info("no caption for an image that cannot be read: %s", error)
        if not images:
            return
        written = dict(zip(images, self._blip.captions(list(images.values())), strict=True))
        lines = "".join(json.dumps({"image": d, "caption": c}, ensure_ascii=False) + "\n" for d, c in written.items())
        with storage_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # In one write, at the end: two processes that write the same lines do not cut each other's.
            with open(self.file, "ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        self._known.update(written)

    @cached_property
    def _blip(self) -> "_Blip":
        return _Blip(self, device=pick_device(self._device))


class _Blip:
    """The loaded model with its image processor and tokenizer."""

    def __init__(self, told: Captioner, *, device: torch.device) -> None:
        self.device = device
        self.longest = told.longest
        # Its own files only: the hash is of the weights.
        parts = told.model.model_copy(update={"sha256": None})
        self.processor = read_image_processor(parts)
        self.tokenizer = Tokenizer.from_str(read_tokenizer(parts).json)
        with kept_torch_generator():
            self.network = _network(told).to(device).eval()

    def captions(self, images: Sequence[Image.Image]) -> list[str]:
        """Return one caption an image."""
        pixels = torch.from_numpy(np.stack([self.processor.apply(image) for image in images])).to(self.device)
        with torch.inference_mode():
            written = self.network.generate(
                pixel_values=pixels, max_new_tokens=self.longest, do_sample=False, num_beams=1
            )
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in written.tolist()]


def _network(told: Captioner) -> Any:
    """Return the network with its published weights, all of them.

    Raises:
        ConfigError: It is no BLIP captioner, or its weights are not those that were named, or lack some.
    """
    model = told.model
    try:
        from transformers import BlipConfig, BlipForConditionalGeneration
    except ImportError:
        raise ConfigError(f"The captioner {model.name} needs transformers: {INSTALL}.") from None
    folder = published_folder(model.name, revision=model.revision, files=SMALL_FILES)
    try:
        values = read_json(folder / "config.json")
    except (CorruptFileError, OSError) as error:
        raise ConfigError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if values.get("model_type") != "blip":
        kind = values.get("model_type")
        raise ConfigError(f"{model.name} is a {kind!r} model, but captions are written by a 'blip' model.")
    files = weight_files(model.name, revision=model.revision)
    model.checked(weights_sha256(files), what="captioner")
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        tensors |= read_tensors(path)
    with quiet_loading():
        network, told_of = BlipForConditionalGeneration.from_pretrained(
            None,
            config=BlipConfig.from_dict(values),
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
        )
    own = network.state_dict()
    missing = sorted(name for name in told_of["missing_keys"] if name in own and own[name].is_floating_point())
    if missing:
        raise ConfigError(f"The weights of {model.name} lack {', '.join(missing[:6])}: it is no BLIP captioner.")
    return network


def _kept(file: Path) -> Iterator[tuple[str, str]]:
    """Yield what was written before; a last line that was cut off is left out."""
    if not file.is_file():
        return
    for line in file.read_bytes().splitlines():
        try:
            row = json.loads(line)
            yield str(row["image"]), str(row["caption"])
        except (ValueError, KeyError, TypeError):
            continue


def _digest(source: ImageSource) -> str | None:
    """Return a hash of an image's content, or None where there is no file."""
    if isinstance(source, Path):
        try:
            return hashlib.sha256(source.read_bytes()).hexdigest()
        except OSError:
            return None
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    return hashlib.sha256(repr(source.shape).encode() + np.ascontiguousarray(source).tobytes()).hexdigest()


def _image(source: ImageSource, *, max_pixels: int) -> Image.Image:
    if isinstance(source, np.ndarray):
        return from_array(source)
    if isinstance(source, bytes):
        return decode(source, max_pixels=max_pixels)
    try:
        return decode(source.read_bytes(), max_pixels=max_pixels)
    except OSError as error:
        raise DataError(f"The image {source} cannot be read: {error.strerror}.") from None
