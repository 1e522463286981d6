"""ScienceQA (Lu et al. 2022, https://arxiv.org/abs/2209.09513): questions with choices, a context and often an image.

Two layouts: the official folder (``problems.json``, ``pid_splits.json``, where there are some ``captions.json`` and the
images ``SPLIT/ID/image.png``, also below ``images``), and the Parquet files of the Hugging Face hub. The answer is the
letter of a choice, and each question allows the letters that it has. ``lecture`` and ``solution`` discuss the answer:
they are not even read. Results are shown by subject, context and grade, as in the paper's tables.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from chiasma.core.errors import DataError
from chiasma.core.spec import canonical_json
from chiasma.data.hub_tables import damaged, split_tables
from chiasma.data.records import BadLine, Records

SLICES = ("subject", "context", "grades")
TEXT = ("question", "choices", "hint")
"""The hint last: where texts are cut, it is its end that is lost, not the choices."""

DISCUSS_THE_ANSWER = ("lecture", "solution")

LETTERS = "ABCDEFGHIJ"
_PROBLEMS, _SPLITS, _CAPTIONS = "problems.json", "pid_splits.json", "captions.json"
_READ = ("question", "choices", "answer", "hint", "task", "grade", "subject", "topic", "category", "skill")
_COLUMNS = ("id", "img", "question", "choices", "hint", "caption", "label", "allowed", "split", *SLICES)
_COLUMNS += ("task", "grade", "topic", "category", "skill")
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_SHARED_NOTE = (
    "Questions of ScienceQA's own splits share images; train and select give way to test. With "
    "data.shared_images=keep none is left out, as in published figures."
)


def is_science_qa(path: Path) -> bool:
    """Return whether a path is the official folder."""
    return path.is_dir() and ((path / _PROBLEMS).is_file() or (path / _SPLITS).is_file())


def stamp_science_qa(folder: Path) -> str:
    """Return a hash of all that is read; the images' contents are watched like those of any image file."""
    return _stamp(_problem_rows(folder)[0])


def read_science_qa(folder: Path) -> tuple[Records, list[str]]:
    """Read the problems of the three splits.

    Returns:
        The rows, and notes about what is missing. Lines are counted through the problems in order.

    Raises:
        DataError: A file is missing or damaged.
    """
    rows, bad, notes = _problem_rows(folder)
    return _records(rows, bad), notes


def is_science_qa_parquet(path: Path) -> bool:
    """Return whether a path is a folder of Parquet files with the hub's columns, perhaps in ``data``."""
    tables = split_tables(path, suffix=".parquet")
    first = tables.get("train", [None])[0]
    return first is not None and {"image", "lecture", *_READ} <= set(_schema(first))


def stamp_science_qa_parquet(folder: Path) -> str:
    """Return a hash of all that is read."""
    return _stamp(_parquet_rows(folder)[0])


def read_science_qa_parquet(folder: Path) -> tuple[Records, list[str]]:
    """Read all tables; images stay the encoded bytes that they are.

    Raises:
        DataError: A file is damaged.
    """
    rows, bad = _parquet_rows(folder)
    return _records(rows, bad), [_SHARED_NOTE]


def row_of(
    problem: Mapping[str, Any], *, identity: str, split: str, image: Any, caption: str | None = None
) -> Mapping[str, Any]:
    """Return a problem as a row.

    Args:
        problem: As in ``problems.json``.
        identity: Its number.
        split: Where it belongs.
        image: A file name, the bytes of a file, or None.
        caption: What the image shows, in words.

    Raises:
        ValueError: Something in it is not as it should be; says what.
    """
    choices, answer = problem.get("choices"), problem.get("answer")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"choices must be a list of 2 to {len(LETTERS)}, but got {choices!r}")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ValueError(f"answer must be a number from 0 to {len(choices) - 1}, but got {answer!r}")
    hint, subject = str(problem.get("hint") or "").strip(), str(problem.get("subject") or "")
    context = [*(["TXT"] if hint else []), *(["IMG"] if problem.get("image") else [])]
    return {
        "id": identity,
        "img": image,
        "question": problem.get("question"),
        "choices": " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)),
        "hint": hint or None,
        "caption": caption,
        "label": LETTERS[answer],
        "allowed": list(LETTERS[: len(choices)]),
        "split": split,
        "subject": _SUBJECTS.get(subject, subject),
        "context": context or ["NO"],
        "grades": _grades(str(problem.get("grade") or "")),
        **{name: problem.get(name) for name in ("task", "grade", "topic", "category", "skill")},
    }


def _grades(grade: str) -> str | None:
    number = grade.removeprefix("grade")
    return ("G1-6" if int(number) <= 6 else "G7-12") if number.isdigit() else None


def _problem_rows(folder: Path) -> tuple[list[Mapping[str, Any]], list[BadLine], list[str]]:
    problems, splits = _json_object(folder, _PROBLEMS), _json_object(folder, _SPLITS)
    captions = _json_object(folder, _CAPTIONS).get("captions", {}) if (folder / _CAPTIONS).is_file() else {}
    homes = {str(pid): split for split in ("train", "val", "test") for pid in splits.get(split) or ()}
    if not set(homes) & set(problems):
        raise DataError(f"{folder / _SPLITS} names no problem of {_PROBLEMS} under train, val or test.")
    tops = [top for top in (folder, folder / "images") if any((top / s).is_dir() for s in ("train", "val", "test"))]
    rows: list[Mapping[str, Any]] = []
    bad: list[BadLine] = []
    for line, (pid, problem) in enumerate(problems.items(), start=1):
        split = homes.get(pid)
        name = problem.get("image") if isinstance(problem, dict) else None
        image = f"{tops[0].relative_to(folder) / str(split) / pid / name}" if name and tops else None
        try:
            if split is None:
                raise ValueError(f"{_SPLITS} has it in none of train, val and test")
            rows.append(row_of(problem, identity=pid, split=split, image=image, caption=captions.get(pid)))
        except (ValueError, AttributeError) as error:
            bad.append(BadLine(line, "not a usable problem", f"problem {pid}: {error}"))
    return rows, bad, _notes(problems, homes, pictured=bool(tops))


def _notes(problems: Mapping[str, Any], homes: Mapping[str, str], *, pictured: bool) -> list[str]:
    notes = [_SHARED_NOTE]
    with_image = sum(bool(problem.get("image")) for problem in problems.values() if isinstance(problem, dict))
    if with_image and not pictured:
        notes.append(
            f"{with_image:,} of {len(problems):,} problems have an image, but no folder train, val or test holds them: "
            "they are read with their texts alone."
        )
    if missing := len(set(homes) - set(problems)):
        notes.append(f"{_SPLITS} names {missing:,} problems that are not in {_PROBLEMS}.")
    return notes


def _json_object(folder: Path, name: str) -> Mapping[str, Any]:
    path = folder / name
    if not path.is_file():
        there = next(other for other in (_PROBLEMS, _SPLITS) if (folder / other).is_file())
        raise DataError(f"{folder} holds ScienceQA's {there}, but lacks {name}, which must lie beside it.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} must hold an object, but holds {type(found).__name__}.")
    return found


def _parquet_rows(folder: Path) -> tuple[list[Mapping[str, Any]], list[BadLine]]:
    rows: list[Mapping[str, Any]] = []
    bad: list[BadLine] = []
    for line, (split, place, problem) in enumerate(_parquet_problems(folder), start=1):
        image = problem["image"]
        content = None if image is None else image.get("bytes") or image.get("path")
        try:
            rows.append(row_of(problem, identity=f"{split}-{place:05d}", split=split, image=content))
        except ValueError as error:
            bad.append(BadLine(line, "not a usable problem", f"row {place} of {split}: {error}"))
    return rows, bad


def _parquet_problems(folder: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for split, paths in split_tables(folder, suffix=".parquet").items():
        place = 0
        for path in paths:
            try:
                problems = parquet.read_table(path, columns=["image", *_READ]).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, error) from None
            for problem in problems:
                yield split, place, problem
                place += 1


def _schema(path: Path) -> Sequence[str]:
    try:
        return parquet.read_schema(path).names
    except (pa.ArrowException, OSError):
        return ()


def _records(rows: Sequence[Mapping[str, Any]], bad: Sequence[BadLine]) -> Records:
    apart = {line.line for line in bad}
    lines = [line for line in range(1, len(rows) + len(bad) + 1) if line not in apart]
    return Records(_COLUMNS, rows, lines, bad, _stamp(rows))


def _stamp(rows: Sequence[Mapping[str, Any]]) -> str:
    """Hash what is read, so that a change of what never reaches a model changes nothing."""
    digest = hashlib.sha256()
    for row in rows:
        image = row["img"]
        plain = hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image
        digest.update(canonical_json({**row, "img": plain}).encode(errors="surrogatepass"))
    return digest.hexdigest()
