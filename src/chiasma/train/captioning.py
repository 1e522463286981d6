"""How good written texts are: token by token, and word by word."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

PADDING, BEGIN, END = 0, 2, 3
LONGEST_PHRASE = 4
GENERATION_METRICS = ("token_log_loss", "perplexity", "exact_match", "bleu_4")


def words_of(ids: np.ndarray, pieces: Sequence[str]) -> list[str]:
    """Return the words that token ids stand for, up to the end."""
    words: list[str] = []
    for each in map(int, ids):
        if each == END:
            break
        if each in (PADDING, BEGIN):
            continue
        piece = pieces[each]
        if piece.startswith("##") and words:
            words[-1] += piece[2:]
        else:
            words.append(piece)
    return words


def predicted_tokens(labels: np.ndarray) -> np.ndarray:
    """Return how many token ids of each text ``[n L]`` are to be predicted: all but the begin, with the end ``[n]``."""
    return (labels[:, 1:] != PADDING).sum(1)


def caption_counts(answers: np.ndarray, labels: np.ndarray, pieces: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the counts of each row from which every metric of texts is a function of sums.

    Args:
        answers: Of each row the ids that were written and then the log loss of the right text, ``[n L+1]``.
        labels: The right ids ``[n L]``.
        pieces: The word piece of each id.

    Returns:
        ``loss`` and ``tokens`` ``[n 1]``, ``exact`` ``[n 1]``, ``hits`` and ``phrases`` ``[n 4]`` of the written
        phrases of one to four words, ``lengths`` ``[n 2]`` of the written and the right text.
    """
    hits, phrases = np.zeros((len(labels), LONGEST_PHRASE)), np.zeros((len(labels), LONGEST_PHRASE))
    exact, lengths = np.zeros((len(labels), 1)), np.zeros((len(labels), 2))
    for row, (said, right) in enumerate(zip(answers[:, :-1], labels, strict=True)):
        written, truth = words_of(said, pieces), words_of(right, pieces)
        exact[row], lengths[row] = written == truth, (len(written), len(truth))
        for size in range(1, LONGEST_PHRASE + 1):
            ours, theirs = _phrases(written, size), _phrases(truth, size)
            hits[row, size - 1] = sum(min(count, theirs[phrase]) for phrase, count in ours.items())
            phrases[row, size - 1] = sum(ours.values())
    tokens = predicted_tokens(labels)[:, None].astype(np.float64)
    return {
        "loss": answers[:, -1:],
        "tokens": tokens,
        "exact": exact,
        "hits": hits,
        "phrases": phrases,
        "lengths": lengths,
    }


def bleu(hits: np.ndarray, phrases: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return corpus BLEU-4 (Papineni et al. 2002) with one right text a row, from sums over rows.

    As in the paper without smoothing: 0 where no written phrase of some length is right.
    """
    precision = np.divide(hits, phrases, out=np.zeros_like(hits), where=phrases > 0)
    with np.errstate(divide="ignore"):
        mean = np.exp(np.log(precision).mean(-1))
    written, right = lengths[..., 0], lengths[..., 1]
    shortness = np.exp(
        np.minimum(0.0, 1 - np.divide(right, written, out=np.full_like(right, np.inf), where=written > 0))
    )
    return mean * shortness


def captioning(answers: np.ndarray, labels: np.ndarray, pieces: Sequence[str]) -> dict[str, float]:
    """Return every metric of texts; BLEU-4 only where some right text has four words."""
    counts = caption_counts(answers, labels, pieces)
    loss = float(counts["loss"].sum() / counts["tokens"].sum())
    found = {
        "token_log_loss": loss,
        "perplexity": float(np.exp(min(loss, 700.0))),
        "exact_match": float(counts["exact"].mean()),
    }
    if (counts["lengths"][:, 1] >= LONGEST_PHRASE).any():
        found["bleu_4"] = float(bleu(*(counts[name].sum(0) for name in ("hits", "phrases", "lengths"))))
    return found


def _phrases(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))
