"""Built-in data: handwritten digits and claims about them. Neither image nor claim alone tells which are true.

The digits are the UCI ones in scikit-learn (1,797 images of 8 x 8, Alpaydin and Kaynak 1998). Every text is true as
often as false within each split, and so is every image. That holds by construction: rows are made in twos, one text
with an image of which it is true and one of which it is false, and each image stands once on either side of a round.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from chiasma.core.errors import DataError
from chiasma.core.rng import numpy_rng

SOURCES = ("digit_claims", "digit_claims:hard")

_SEED = 20_240_001
_PAIRS = 8_000
_FEWEST = 24
_SHARES = {"train": 0.62, "steer": 0.08, "select": 0.12, "test": 0.18}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
          "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen")  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One statement about a scene.

    Attributes:
        kind: Claims are drawn evenly over kinds.
        phrasings: Ways to say the same.
        holds: For each possible scene, whether the statement is true of it.
    """

    kind: str
    phrasings: tuple[str, ...]
    holds: np.ndarray


@dataclass(frozen=True)
class DigitClaims:
    """The rows and their images.

    Attributes:
        frame: Columns ``id image text label split group line``; the label is ``true`` or ``false``.
        images: ``H W 3`` uint8 by the name in column ``image``.
        stamp: Hash of all of it.
    """

    frame: pd.DataFrame
    images: dict[str, np.ndarray]
    stamp: str


@lru_cache(maxsize=4)
def digit_claims(level: str = "digit_claims", *, pairs: int | None = None) -> DigitClaims:
    """Make the data, the same every time.

    Args:
        level: ``digit_claims`` (one digit) or ``digit_claims:hard`` (two digits, comparisons and sums).
        pairs: About how many rows; None for 8,000.
    """
    if level not in SOURCES:
        raise DataError(f"Built-in data must be one of {', '.join(SOURCES)}, not {level!r}.")
    images, scenes = _single_digits() if level == "digit_claims" else _double_digits()
    claims = _easy_claims() if level == "digit_claims" else _hard_claims()
    wanted = min(pairs or _PAIRS, 10 * len(images))
    rounds = wanted / (2 * len(images))
    rows: list[tuple[str, int, str, bool]] = []
    for split, members in _split_scenes(scenes, shrink=min(1.0, rounds / 2)).items():
        split_rng = numpy_rng(_SEED, level, split)
        rows += [(split, *row) for row in _rows_of_split(scenes, members, claims, max(2.0, rounds), split_rng)]
    names = [f"{level.replace(':', '-')}-{index:04d}" for index in range(len(images))]
    frame = _frame(rows, names)
    used = sorted({index for _, index, _, _ in rows})
    digest = hashlib.sha256(frame.to_csv().encode() + images[used].tobytes()).hexdigest()
    return DigitClaims(frame, {names[index]: images[index] for index in used}, digest)


def _frame(rows: Sequence[tuple[str, int, str, bool]], names: Sequence[str]) -> pd.DataFrame:
    columns = {
        "id": [f"pair-{number:05d}" for number in range(len(rows))],
        "image": [names[index] for _, index, _, _ in rows],
        "text": [text for _, _, text, _ in rows],
        "label": ["true" if truth else "false" for _, _, _, truth in rows],
        "split": [split for split, _, _, _ in rows],
        "group": [names[index] for _, index, _, _ in rows],
        "line": list(range(1, len(rows) + 1)),
    }
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def _single_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    grey = np.round(np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), np.asarray(digits, dtype=np.int64)


def _double_digits() -> tuple[np.ndarray, np.ndarray]:
    """Put the digits side by side in twos, each in one image only, so that images never share handwriting."""
    images, digits = _single_digits()
    order = numpy_rng(_SEED, "sides").permutation(len(images) // 2 * 2).reshape(-1, 2)
    canvas = np.zeros((len(order), 16, 16, 3), dtype=np.uint8)
    canvas[:, 4:12, :8] = images[order[:, 0]]
    canvas[:, 4:12, 8:] = images[order[:, 1]]
    return canvas, digits[order[:, 0]] * 10 + digits[order[:, 1]]


def _split_scenes(scenes: np.ndarray, *, shrink: float) -> dict[str, np.ndarray]:
    """Cut the images into splits; ``shrink`` keeps a part of each, for a quick look."""
    order = numpy_rng(_SEED, "splits").permutation(len(scenes))
    bounds = np.round(np.cumsum([0.0, *_SHARES.values()]) * len(order)).astype(int)
    parts = {name: order[start:end] for name, start, end in zip(_SHARES, bounds[:-1], bounds[1:], strict=True)}
    return {name: part[: max(_FEWEST, round(shrink * len(part)))] for name, part in parts.items()}


def _easy_claims() -> list[Claim]:
    digit = np.arange(10)
    claims = [
        Claim("even", ("this is an even number", "the digit is even"), digit % 2 == 0),
        Claim("odd", ("this is an odd number", "the digit is odd"), digit % 2 == 1),
    ]
    for d in range(10):
        word = _WORDS[d]
        claims.append(Claim("is", (f"this is a {word}", f"the digit is {word}"), digit == d))
        claims.append(Claim("is not", (f"this is not a {word}", f"the digit is not {word}"), digit != d))
        claims.append(Claim("more than", (f"this is more than {word}", f"the digit is greater than {word}"), digit > d))
        claims.append(Claim("less than", (f"this is less than {word}", f"the digit is smaller than {word}"), digit < d))
        for e in range(d + 1, 10):
            phrasings = (f"this is a {word} or a {_WORDS[e]}", f"the digit is either {word} or {_WORDS[e]}")
            claims.append(Claim("either or", phrasings, (digit == d) | (digit == e)))
    return claims


def _hard_claims() -> list[Claim]:
    left, right = np.divmod(np.arange(100), 10)
    total = left + right
    claims = [
        Claim("compare", ("the left digit is greater than the right", "the right digit is smaller"), left > right),
        Claim("compare", ("the right digit is greater than the left", "the left digit is smaller"), right > left),
        Claim("same", ("both digits are the same", "the two digits are equal"), left == right),
        Claim("parity", ("the sum is even", "together they make an even number"), total % 2 == 0),
        Claim("parity", ("the sum is odd", "together they make an odd number"), total % 2 == 1),
    ]
    for n in range(19):
        word = _WORDS[n]
        claims.append(Claim("sum", (f"the sum is {word}", f"together they make {word}"), total == n))
        claims.append(Claim("sum above", (f"the sum is more than {word}", f"together they exceed {word}"), total > n))
        claims.append(
            Claim("sum below", (f"the sum is less than {word}", f"together they stay below {word}"), total < n)
        )
    for d in range(10):
        word = _WORDS[d]
        claims.append(Claim("left", (f"the left digit is {word}", f"on the left there is a {word}"), left == d))
        claims.append(Claim("right", (f"the right digit is {word}", f"on the right there is a {word}"), right == d))
        claims.append(
            Claim("not left", (f"the left digit is not {word}", f"there is no {word} on the left"), left != d)
        )
        claims.append(
            Claim("not right", (f"the right digit is not {word}", f"there is no {word} on the right"), right != d)
        )
    return claims


def _rows_of_split(
    scenes: np.ndarray, members: np.ndarray, claims: Sequence[Claim], rounds: float, rng: np.random.Generator
) -> list[tuple[int, str, bool]]:
    """Return ``(image, text, truth)`` rows: each image ``rounds`` times true and as often false, each text likewise."""
    choose = _claim_chooser(claims)
    rows: list[tuple[int, str, bool]] = []
    used: dict[int, set[str]] = {int(member): set() for member in members}
    whole, part = divmod(rounds, 1)
    sizes = [len(members)] * int(whole) + [round(part * len(members))]
    for size in (size for size in sizes if size >= _FEWEST):
        chosen = rng.permutation(members)[:size]
        for true_of, false_of in _partners(chosen, scenes, rng):
            text = choose(int(scenes[true_of]), int(scenes[false_of]), rng, used[true_of] | used[false_of])
            used[true_of].add(text)
            used[false_of].add(text)
            rows += [(true_of, text, True), (false_of, text, False)]
    return [rows[index] for index in rng.permutation(len(rows))]


def _partners(members: np.ndarray, scenes: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Pair each image with one that shows something else; every image is once first and once second."""
    others = rng.permutation(members)
    assert np.unique(scenes[members], return_counts=True)[1].max() <= len(members) // 2
    for index in range(len(members)):
        while scenes[members[index]] == scenes[others[index]]:
            swap = int(rng.integers(len(members)))
            if scenes[members[swap]] != scenes[others[index]] and scenes[members[index]] != scenes[others[swap]]:
                others[index], others[swap] = others[swap], others[index]
    return [(int(first), int(second)) for first, second in zip(members, others, strict=True)]


def _claim_chooser(claims: Sequence[Claim]) -> Callable[[int, int, np.random.Generator, set[str]], str]:
    """Return a function that draws a text true of one scene and false of another: a kind, then a claim, then words."""
    kinds = sorted({claim.kind for claim in claims})
    by_kind = {kind: [claim for claim in claims if claim.kind == kind] for kind in kinds}
    truths = {kind: np.stack([claim.holds for claim in by_kind[kind]]) for kind in kinds}

    def choose(true_of: int, false_of: int, rng: np.random.Generator, taken: set[str]) -> str:
        for kind in rng.permutation(kinds):
            fitting = np.flatnonzero(truths[kind][:, true_of] & ~truths[kind][:, false_of])
            for index in rng.permutation(fitting):
                phrasings = by_kind[kind][index].phrasings
                free = [text for text in phrasings if text not in taken]
                if free:
                    return free[int(rng.integers(len(free)))]
        raise AssertionError("two different scenes have no claim left that tells them apart")

    return choose
