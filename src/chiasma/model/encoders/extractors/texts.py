"""States of a published text encoder: T5 and what is built like it."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from chiasma.data.feature_store import Encoded
from chiasma.data.published import Published, content_sha256
from chiasma.data.published_text import SHIFT, encode_published, read_tokenizer
from chiasma.data.text import LONGEST, TEXT_SEPARATOR
from chiasma.model.encoders.extractor import Extractor, ExtractorSettings, Identity, Place, Reads
from chiasma.model.encoders.extractors.frozen import Frozen, load_frozen

KINDS = ("t5", "mt5", "umt5")


class TextExtractor(Extractor):
    """The last hidden states of a published text encoder, padded with masked zeros to one length.

    Args:
        frozen: The encoder.
        source: Whose tokenizer it is.
        place: Where it computes, and how many ids a text may have.
    """

    def __init__(self, frozen: Frozen, source: Published, place: Place) -> None:
        self.frozen = frozen
        self.place = place
        self.published = read_tokenizer(source)
        self.tokenizer = Tokenizer.from_str(self.published.json)
        allowed = self.published.rules.longest or LONGEST
        self.length = min(place.length or LONGEST, allowed)

    @property
    def identity(self) -> Identity:
        """Return the architecture, the weights, and the tokenizer with the length."""
        name = content_sha256([self.frozen.architecture, str(self.place.dtype)])
        read = content_sha256([self.published.sha256, self.length])
        return Identity(f"{self.frozen.architecture['model_type']} {name}", self.frozen.weights, read)

    def prepare(self, content: Image.Image | str) -> Any:
        """Return the text, its parts joined as the tokenizer joins them."""
        assert isinstance(content, str)
        return content.replace(TEXT_SEPARATOR, self.published.rules.separator)

    def encode(self, prepared: list[Any]) -> Encoded:
        """Return a token for each id."""
        ids, _ = encode_published(self.tokenizer, prepared, length=self.length)
        # What nobody in the batch has need not be computed.
        longest = max(1, int((ids != 0).sum(1).max()))
        mask = ids != 0
        own = np.where(mask, ids - SHIFT, self.published.rules.padding or 0)[:, :longest]
        attended = mask[:, :longest].copy()
        # A text without any id looks at its own padding, which is masked afterwards.
        attended[:, 0] = True
        device = self.place.device
        with torch.inference_mode(), self.place.arithmetic():
            hidden = self.frozen.network(
                input_ids=torch.from_numpy(own).long().to(device),
                attention_mask=torch.from_numpy(attended).long().to(device),
            ).last_hidden_state
        states = hidden.float().cpu().numpy() * mask[:, :longest, None]
        return Encoded(np.pad(states, ((0, 0), (0, self.length - longest), (0, 0))), mask)


class T5(ExtractorSettings):
    """The states of T5's encoder, one a token id, with a mask; Flan-T5 and mT5 too.

    Attributes:
        weights: A folder in the layout of ``save_pretrained``, or a name of the hub.
        revision: Branch, tag or commit on the hub.
    """

    reads: ClassVar[Reads] = "text"
    batch_size: ClassVar[int] = 64

    kind: Literal["t5"] = "t5"
    weights: str = "google/flan-t5-base"
    revision: str | None = None

    def build(self, place: Place) -> Extractor:
        """Return the extractor; errors as in ``load_frozen`` and ``read_tokenizer``."""
        frozen = load_frozen(self.weights, self.revision, reads="text", kinds=KINDS, place=place)
        return TextExtractor(frozen, Published(name=self.weights, revision=self.revision), place)
