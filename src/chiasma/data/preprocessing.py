"""From raw samples to a batch, the same way for training and for prediction; saved with every model."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from chiasma.core.errors import CorruptFileError, DataError
from chiasma.core.spec import Spec
from chiasma.data.batch import Batch, Sample, Tokens
from chiasma.data.framing import Framing
from chiasma.data.image import Fit, decode_file, fitted, from_array, quiet_decoding
from chiasma.data.published_text import encode_published
from chiasma.data.signature import ImageInput, Signature, TextInput, TokensInput
from chiasma.data.text import TEXT_SEPARATOR, clipped, encode_texts

TOKENIZER_FILE = "tokenizer.json"


class PreprocessingSpec(Spec):
    """The settings that a raw sample's encoding depends on.

    Attributes:
        framing: How a published image processor brings images to their size; None for ``image_fit``.
        separator: What stands between joined texts for a published tokenizer; None for our own.
        target_mean: What was subtracted from each quantity, 0 from other outputs; None where there are no quantities.
        target_deviation: What it was then divided by.
    """

    signature: Signature
    image_fit: Fit = "pad"
    framing: Framing | None = None
    separator: str | None = None
    max_pixels: int = 50_000_000
    max_characters: int = 20_000
    target_mean: tuple[float, ...] | None = None
    target_deviation: tuple[float, ...] | None = None


class Preprocessing:
    """Decodes, resizes and tokenises new samples.

    Args:
        spec: The settings.
        tokenizer: The tokenizer's own JSON; None where there is no text.
    """

    def __init__(self, spec: PreprocessingSpec, tokenizer: str | None) -> None:
        self.spec = spec
        self._tokenizer_json = tokenizer

    @property
    def signature(self) -> Signature:
        """Return what a model's shape depends on."""
        return self.spec.signature

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer, learned or published."""
        assert self._tokenizer_json is not None
        return Tokenizer.from_str(self._tokenizer_json)

    def documents(self) -> dict[str, Any]:
        """Return the JSON part, for a checkpoint or a model folder."""
        return {"preprocessing": self.spec.to_dict()}

    def files(self) -> dict[str, bytes]:
        """Return the files beside it."""
        return {} if self._tokenizer_json is None else {TOKENIZER_FILE: self._tokenizer_json.encode()}

    @classmethod
    def load(cls, documents: Mapping[str, Any], files: Mapping[str, bytes]) -> "Preprocessing":
        """Return what :meth:`documents` and :meth:`files` described.

        Raises:
            CorruptFileError: A part is missing.
        """
        if "preprocessing" not in documents:
            raise CorruptFileError("The saved model lacks the document 'preprocessing'.")
        spec = PreprocessingSpec.from_dict(documents["preprocessing"], where="preprocessing")
        if isinstance(spec.signature.inputs.get("text"), TextInput) and TOKENIZER_FILE not in files:
            raise CorruptFileError(f"The saved model reads text but lacks the file {TOKENIZER_FILE}.")
        return cls(spec, files[TOKENIZER_FILE].decode() if TOKENIZER_FILE in files else None)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Return the model inputs of raw samples.

        A part may be absent; an image may also be a file name. A modality of ready-made tokens takes an ``N D`` array,
        with an ``N 5`` array as part ``image.boxes`` where the model was trained with boxes, and an ``N 1`` array as
        part ``image.mask`` where some of them do not count (zeros).

        Raises:
            DataError: A part is of the wrong kind or cannot be decoded; names the sample.
        """
        inputs: dict[str, torch.Tensor | Tokens] = {}
        present: dict[str, torch.Tensor] = {}
        for name, kind in self.signature.inputs.items():
            parts = [sample.parts.get(name) for sample in samples]
            ids = [sample.id for sample in samples]
            if isinstance(kind, TextInput):
                inputs[name], present[name] = self._encode_texts(parts, ids, kind)
            elif isinstance(kind, ImageInput):
                inputs[name], present[name] = self._encode_images(parts, ids, kind)
            else:
                inputs[name], present[name] = _encode_tokens(samples, kind, name)
        return Batch(inputs, present, tuple(sample.id for sample in samples))

    def _encode_texts(
        self, parts: Sequence[Any], ids: Sequence[str], kind: TextInput
    ) -> tuple[torch.Tensor, torch.Tensor]:
        texts: list[str] = []
        for part, identity in zip(parts, ids, strict=True):
            if part is not None and not isinstance(part, str):
                raise DataError(f"Sample {identity!r}: text must be a string, but got {type(part).__name__}.")
            texts.append(clipped((part or "").replace("\0", ""), self.spec.max_characters))
        present = torch.tensor([bool(text) for text in texts], dtype=torch.bool)
        encoded, _ = texts_to_ids(self.tokenizer, texts, kind=kind, separator=self.spec.separator)
        return torch.from_numpy(encoded).long() * present[:, None], present

    def _encode_images(
        self, parts: Sequence[Any], ids: Sequence[str], kind: ImageInput
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = np.zeros((len(parts), kind.channels, kind.height, kind.width), dtype=np.uint8)
        with quiet_decoding():
            for row, (part, identity) in enumerate(zip(parts, ids, strict=True)):
                if part is not None:
                    pixels[row] = self._pixels(part, identity, kind)
        present = torch.tensor([part is not None for part in parts], dtype=torch.bool)
        return torch.from_numpy(pixels).float().div_(255.0), present

    def _pixels(self, part: Any, identity: str, kind: ImageInput) -> np.ndarray:
        try:
            if isinstance(part, (str, Path)):
                image = decode_file(Path(part), max_pixels=self.spec.max_pixels)
            else:
                image = from_array(np.asarray(part))
        except DataError as error:
            raise DataError(f"Sample {identity!r}: {error}") from None
        if self.spec.framing is not None:
            return self.spec.framing.apply(image)
        return fitted(image, height=kind.height, width=kind.width, fit=self.spec.image_fit)


def texts_to_ids(
    tokenizer: Tokenizer, texts: Sequence[str], *, kind: TextInput, separator: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids ``T L`` padded with 0, and which texts were cut."""
    if kind.tokenizer is None:
        return encode_texts(tokenizer, texts, length=kind.length)
    joined = texts if separator is None else [text.replace(TEXT_SEPARATOR, separator) for text in texts]
    return encode_published(tokenizer, joined, length=kind.length)


def _encode_tokens(samples: Sequence[Sample], kind: TokensInput, name: str) -> tuple[Tokens, torch.Tensor]:
    values = _stacked(samples, name, (kind.count, kind.dim))
    present = torch.tensor([sample.parts.get(name) is not None for sample in samples], dtype=torch.bool)
    boxes = _stacked(samples, f"{name}.boxes", (kind.count, 5)) if kind.boxes else None
    mask = present[:, None].expand(-1, kind.count).clone()
    if any(f"{name}.mask" in sample.parts for sample in samples):
        mask &= _stacked(samples, f"{name}.mask", (kind.count, 1), absent=1.0)[..., 0] != 0
    return Tokens(values, mask, boxes), present


def _stacked(samples: Sequence[Sample], name: str, shape: tuple[int, int], *, absent: float = 0.0) -> torch.Tensor:
    values = torch.full((len(samples), *shape), absent)
    for row, sample in enumerate(samples):
        part = sample.parts.get(name)
        if part is None:
            continue
        if not isinstance(part, np.ndarray) or part.shape != shape:
            got = f"an array of {part.shape}" if isinstance(part, np.ndarray) else type(part).__name__
            raise DataError(
                f"Sample {sample.id!r}: this model was trained on ready-made tokens, so that {name} must be an array "
                f"of {shape} from the same encoder, but got {got}."
            )
        values[row] = torch.from_numpy(part.astype(np.float32))
        if not bool(torch.isfinite(values[row]).all()):
            raise DataError(f"Sample {sample.id!r}: {name} must be finite, but holds NaN or infinity.")
    return values
