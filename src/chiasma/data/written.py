"""Texts that are to be written: their word pieces, learned from the train split, and their ids."""

from collections.abc import Sequence

import numpy as np
from tokenizers import decoders

from chiasma.data.signature import Target
from chiasma.data.text import SPECIAL, automatic_length, encode_texts, known_tokenizer, train_tokenizer


def written_target(texts: Sequence[str], *, vocabulary: int, lowercase: bool) -> Target:
    """Return what is written, from the texts of the train split: which word pieces, and how many ids a text has."""
    distinct = list(dict.fromkeys(texts))
    tokenizer = train_tokenizer(distinct, vocabulary=vocabulary, lowercase=lowercase)
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return Target(
        task="generation", labels=tuple(piece for piece, _ in pieces), length=automatic_length(tokenizer, distinct)
    )


def encode_written(texts: Sequence[str], target: Target, *, lowercase: bool) -> np.ndarray:
    """Return ``int32 [n L]`` ids, each text between begin and end, then padding; longer texts are cut."""
    assert target.length is not None
    tokenizer = known_tokenizer(target.labels, lowercase=lowercase)
    ids, _ = encode_texts(tokenizer, texts, length=target.length)
    return ids


def decode_written(ids: np.ndarray, target: Target) -> list[str]:
    """Return the texts of ids ``[n L]``, each up to its end."""
    decoder = decoders.WordPiece()
    texts: list[str] = []
    for row in ids.astype(int).tolist():
        row = row[: row.index(SPECIAL.index("[SEP]"))] if SPECIAL.index("[SEP]") in row else row
        texts.append(decoder.decode([target.labels[each] for each in row if target.labels[each] not in SPECIAL]))
    return texts
