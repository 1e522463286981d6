"""Finding the text of an image among many, and the image of a text: recall and ranks."""

from dataclasses import dataclass

import numpy as np

WAYS = ("image_to_text", "text_to_image")
DEPTHS = (1, 5, 10)
MEDIAN_RANKS = tuple(f"{way}_median_rank" for way in WAYS)
RETRIEVAL_METRICS = (
    *(f"recall_at_{depth}" for depth in DEPTHS),
    *(f"{way}_recall_at_{depth}" for way in WAYS for depth in DEPTHS),
    *MEDIAN_RANKS,
)
QUERIES_AT_A_TIME = 512


@dataclass(frozen=True)
class Ranks:
    """How early each row's query finds a right answer.

    Attributes:
        ranks: Of the best right answer among all distinct answers, 1 at best; equal similarities count half ``[n]``.
        shares: What a row counts: rows that ask the same share one query ``[n]``.
    """

    ranks: np.ndarray
    shares: np.ndarray


def directions(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors of images and of texts ``[n P]`` from a contrastive model's outputs ``[n 2P]``."""
    image, text = np.split(np.asarray(logits, dtype=np.float64), 2, axis=1)
    return _unit(image), _unit(text)


def rank_answers(logits: np.ndarray, labels: np.ndarray) -> dict[str, Ranks]:
    """Return, both ways, the ranks of the right answers among everything that these rows show.

    Each distinct image is one query and each distinct text one answer, or the other way round. Every text of an image
    is right for it, in whatever row it stands.

    Args:
        logits: A contrastive model's outputs ``[n 2P]``.
        labels: Which image and which text each row has ``[n 2]``.
    """
    image, text = directions(logits)
    return {
        WAYS[0]: _ranks(image, text, labels[:, 0], labels[:, 1]),
        WAYS[1]: _ranks(text, image, labels[:, 1], labels[:, 0]),
    }


def retrieval(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return every metric of retrieval; ``recall_at_k`` is the mean of both ways."""
    ranked = rank_answers(logits, labels)
    found = {f"{way}_recall_at_{k}": recall(ranked[way], k) for way in WAYS for k in DEPTHS}
    both = {f"recall_at_{k}": float(np.mean([found[f"{way}_recall_at_{k}"] for way in WAYS])) for k in DEPTHS}
    return both | found | {f"{way}_median_rank": median_rank(ranked[way]) for way in WAYS}


def recall(ranked: Ranks, depth: int) -> float:
    """Return the share of queries with a right answer among the first ``depth``."""
    return float((ranked.shares * (ranked.ranks <= depth)).sum() / ranked.shares.sum())


def median_rank(ranked: Ranks) -> float:
    """Return the least rank within which half of the queries find a right answer."""
    order = np.argsort(ranked.ranks, kind="stable")
    covered = np.cumsum(ranked.shares[order])
    return float(ranked.ranks[order][np.searchsorted(covered, covered[-1] / 2 - 1e-9)])


def nearest(queries: np.ndarray, answers: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the nearest answers of each query, nearest first, and their cosine similarities.

    Args:
        queries: Unit vectors ``[q P]``.
        answers: Unit vectors ``[a P]``.
        count: How many answers each query gets, at most as many as there are.
    """
    similar = queries @ answers.T
    places = np.argsort(-similar, axis=1, kind="stable")[:, :count]
    return places, np.take_along_axis(similar, places, axis=1)


def _ranks(queries: np.ndarray, answers: np.ndarray, asked: np.ndarray, told: np.ndarray) -> Ranks:
    _, first_query, query_of = np.unique(asked, return_index=True, return_inverse=True)
    _, first_answer, answer_of = np.unique(told, return_index=True, return_inverse=True)
    gallery = answers[first_answer]
    ranks = np.zeros(len(first_query))
    for start in range(0, len(first_query), QUERIES_AT_A_TIME):
        block = np.arange(start, min(start + QUERIES_AT_A_TIME, len(first_query)))
        similar = queries[first_query[block]] @ gallery.T
        right = np.zeros(similar.shape, dtype=bool)
        here = (query_of >= start) & (query_of <= block[-1])
        right[query_of[here] - start, answer_of[here]] = True
        best = np.where(right, similar, -np.inf).max(1, keepdims=True)
        ties = ((similar == best) & ~right).sum(1)
        ranks[block] = 1 + ((similar > best) & ~right).sum(1) + ties / 2
    counts = np.bincount(query_of)
    return Ranks(ranks[query_of], 1.0 / counts[query_of])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def ways_of(metric: str) -> tuple[str, ...]:
    """Return the ways that a metric looks at: one, or both."""
    named = tuple(way for way in WAYS if metric.startswith(way))
    return named or WAYS


def depth_of(metric: str) -> int | None:
    """Return how many answers a recall looks at; None for a median rank."""
    return None if metric in MEDIAN_RANKS else int(metric.rpartition("_")[2])
