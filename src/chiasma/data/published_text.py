"""A published tokenizer: read once by transformers, then kept as JSON and used without it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, strict_json
from chiasma.data.published import INSTALL, Published, content_sha256
from chiasma.data.text import LONGEST

CHUNK = 1024
SHIFT = 1
"""Ids are stored one higher than the tokenizer's, so that 0 is padding whatever the tokenizer pads with."""


class TokenRules(Spec):
    """What there is to know of a tokenizer beside its JSON; all ids are its own.

    Attributes:
        vocabulary: One more than its highest id.
        longest: Most ids a text may have; None where the tokenizer does not say.
        padding: What it pads with; None where it does not.
        blank: What stands for a word that cannot be read: the mask, or else the unknown piece; None where the latter
            also ends texts.
        special: Ids that are not of words.
        separator: What stands between texts that are joined.
    """

    vocabulary: int
    longest: int | None
    padding: int | None
    blank: int | None
    special: tuple[int, ...]
    separator: str


@dataclass(frozen=True)
class PublishedTokenizer:
    """A tokenizer that is kept.

    Attributes:
        json: From which ``tokenizers`` rebuilds it.
    """

    json: str
    rules: TokenRules

    @property
    def sha256(self) -> str:
        """Return a hash of all that its ids depend on."""
        return content_sha256([strict_json(self.json), self.rules.to_dict()])


def read_tokenizer(source: Published) -> PublishedTokenizer:
    """Read a tokenizer as transformers does.

    Raises:
        ConfigError: There is none, it cannot be converted to JSON, or it is not the one that was read before.
    """
    loaded = _loaded(source)
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ConfigError(
            f"The tokenizer of {source.name} has no form that can be saved with a model (tokenizer.json), and "
            "transformers cannot convert it. Where it can: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)."
        )
    bare = Tokenizer.from_str(backend.to_str())
    bare.no_padding()
    bare.no_truncation()
    found = PublishedTokenizer(bare.to_str(), _rules(loaded, bare))
    source.checked(found.sha256, what="tokenizer")
    return found


def _loaded(source: Published) -> Any:
    folder = source.folder()
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ConfigError(f"Reading the tokenizer of {source.name} needs transformers: {INSTALL}.") from None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        raise ConfigError(
            f"No tokenizer can be read from {folder}: {_first_line(error)} The folder must hold tokenizer.json; it "
            f"holds {', '.join(names) or 'nothing'}."
        ) from None


def _rules(loaded: Any, bare: Tokenizer) -> TokenRules:
    unknown, blank = loaded.unk_token_id, loaded.mask_token_id
    ends = {loaded.bos_token_id, loaded.cls_token_id, loaded.eos_token_id, loaded.sep_token_id, loaded.pad_token_id}
    special = tuple(sorted({each for each in (*ends, unknown, blank) if each is not None}))
    if blank is None and unknown is not None and unknown not in ends:
        blank = unknown
    longest = int(loaded.model_max_length)
    ids = bare.get_vocab(with_added_tokens=True).values()
    return TokenRules(
        vocabulary=max(ids) + 1,
        # Where a tokenizer has no limit, transformers says 10 to the 30.
        longest=longest if longest < 10**9 else None,
        padding=loaded.pad_token_id,
        blank=blank,
        special=special,
        separator="\n" if loaded.sep_token is None else f" {loaded.sep_token} ",
    )


def published_length(tokenizer: Tokenizer, texts: Sequence[str], *, most: int | None) -> int:
    """Return the 99.5th percentile of the number of ids a text has, between 4 and 128, or what the tokenizer allows."""
    untruncated = copy.deepcopy(tokenizer)
    untruncated.no_truncation()
    lengths = [len(row.ids) for part in _parts(texts) for row in untruncated.encode_batch_fast(part)]
    longest = min(LONGEST, most or LONGEST)
    return int(np.clip(np.ceil(np.percentile(lengths, 99.5)), 4, longest)) if lengths else 4


def encode_published(tokenizer: Tokenizer, texts: Sequence[str], *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn texts into padded ids, each one higher than the tokenizer's own.

    Returns:
        ids: ``T L`` int32, 0 where there is padding; what the tokenizer puts at the end is kept where a text is cut.
        cut: ``T`` booleans, which texts were longer than ``length``.
    """
    tokenizer.enable_truncation(length)
    ids = np.zeros((len(texts), length), dtype=np.int32)
    cut = np.zeros(len(texts), dtype=bool)
    row = 0
    for part in _parts(texts):
        for encoding in tokenizer.encode_batch(part):
            pieces = encoding.ids
            ids[row, : len(pieces)] = np.array(pieces, dtype=np.int32) + SHIFT
            cut[row] = bool(encoding.overflowing)
            row += 1
    return ids, cut


def _parts(texts: Sequence[str]) -> Any:
    rest = iter(texts)
    while part := list(islice(rest, CHUNK)):
        yield part


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if line.endswith(".") else f"{line}."
