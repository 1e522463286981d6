"""Word pieces: a vocabulary learned from the train split alone, saved with every model."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

# Set before the import: a tokenizer that has started threads deadlocks in a forked child.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""In the order of their ids, 0 to 3."""

TEXT_SEPARATOR = " [SEP] "
"""Stands between the columns of a text."""

LONGEST = 128
"""Most token ids a text gets where the length is automatic."""

_MOST_LETTERS = 1000
_MOST_CHARACTERS = 3_000_000
_MOST_WORDS = 1_000_000


def train_tokenizer(texts: Sequence[str], *, vocabulary: int, lowercase: bool) -> Tokenizer:
    """Learn WordPiece (Schuster and Nakajima 2012), by byte-pair merges as in the tokenizers library.

    Unlike the library's own trainer it gives the same vocabulary every time: there, the ids of the pieces inside words
    follow the order of a randomly seeded hash map, and ties between merges follow the ids.

    Args:
        texts: The distinct texts of the train split; an even selection of them where they are very many.
        vocabulary: Largest number of pieces, special ones included.
        lowercase: Also strips accents.
    """
    corpus = _even_selection(texts)
    learner = _tokenizer(WordPiece(unk_token=SPECIAL[1]), lowercase)  # pyright: ignore[reportCallIssue]
    counts: Counter[str] = Counter()
    for text in corpus:
        counts.update(learner.normalizer.normalize_str(text))
    letters = sorted(sorted(counts, key=lambda c: (-counts[c], c))[: min(_MOST_LETTERS, vocabulary // 4)])
    letters = [letter for letter in letters if not letter.isspace()]
    trainer = WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL, *(f"##{letter}" for letter in letters)],
        initial_alphabet=letters,
        limit_alphabet=max(1, len(letters)),
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)
    model = WordPiece(learner.get_vocab(), unk_token=SPECIAL[1], max_input_chars_per_word=100)  # pyright: ignore[reportCallIssue]
    tokenizer = _tokenizer(model, lowercase)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def known_tokenizer(pieces: Sequence[str], *, lowercase: bool) -> Tokenizer:
    """Return the tokenizer that learned these word pieces, which are in the order of their ids."""
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = WordPiece(vocabulary, unk_token=SPECIAL[1], max_input_chars_per_word=100)  # pyright: ignore[reportCallIssue]
    tokenizer = _tokenizer(model, lowercase)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _tokenizer(model: WordPiece, lowercase: bool) -> Any:
    tokenizer: Any = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _even_selection(texts: Sequence[str]) -> list[str]:
    """Return every n-th text, so that together they have about :data:`_MOST_CHARACTERS` at most."""
    total = sum(len(text) for text in texts)
    return list(texts[:: max(1, -(-total // _MOST_CHARACTERS))])


def automatic_length(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """Return the 99.5th percentile of the number of ids a text has, between 4 and :data:`LONGEST`."""
    lengths = [len(ids) for ids in _pieces(tokenizer, texts, LONGEST)]
    return int(np.clip(np.ceil(np.percentile(lengths, 99.5)), 4, LONGEST)) if lengths else 4


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn texts into padded ids.

    Returns:
        ids: ``T L`` int32, 0 where there is padding; the SEP token is kept where a text is cut.
        cut: ``T`` booleans, which texts were longer than ``length``.
    """
    ids = np.zeros((len(texts), length), dtype=np.int32)
    cut = np.zeros(len(texts), dtype=bool)
    for row, pieces in enumerate(_pieces(tokenizer, texts, length)):
        if len(pieces) > length:
            cut[row] = True
            pieces = [*pieces[: length - 1], pieces[-1]]
        ids[row, : len(pieces)] = pieces
    return ids, cut


def _pieces(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Iterator[list[int]]:
    """Yield the ids of each text between CLS and SEP; ids beyond ``length`` may be missing.

    Words between spaces are encoded once each, since texts share most of them and none depends on its neighbours.
    """
    known: dict[str, list[int]] = {}
    for start in range(0, len(texts), 4096):
        # A word has at least one piece, so that words beyond the length need not be looked at.
        openings = [text.split(None, length)[:length] for text in texts[start : start + 4096]]
        fresh = list({word: None for words in openings for word in words if word not in known})
        for word, encoding in zip(fresh, tokenizer.encode_batch_fast(fresh, add_special_tokens=False), strict=True):
            known[word] = encoding.ids
        for words in openings:
            yield [2, *chain.from_iterable(known[word] for word in words), 3]
        if len(known) > _MOST_WORDS:
            known.clear()


def clipped(text: str, max_characters: int) -> str:
    """Return a text without surrounding space, no longer than ``max_characters``."""
    return text.strip()[:max_characters]
