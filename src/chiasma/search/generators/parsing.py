"""From what a language model wrote to what can be tried: source, a tree, or nothing and why."""

import io
import json
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from chiasma.core.spec import strict_json
from chiasma.search.generators.generator import Answer

LONGEST_SOURCE = 100_000
LONGEST_TEXT = 1_000_000
# Each is a reading of the block from its beginning: an answer of nothing but fences must not take long.
FENCES_IN_STRINGS = 20
CODE_LANGUAGES = frozenset({"", "python", "py", "python3", "pytorch"})
JSON_LANGUAGES = frozenset({"", "json", "jsonc"})
_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[\w+.-]*)[^`\n]*$")
_REFUSALS = re.compile(
    r"^\W*(?:i['’]?m sorry|i am sorry|sorry,|i can(?:no|['’])t|i(?:['’]m| am) (?:not able|unable)|as an ai\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Code:
    """Source that is to be tried; nothing is known of it but that it is there."""

    source: str


@dataclass(frozen=True)
class Tree:
    """Values of a typed tree that is to be built; nothing is known of them but that they are JSON."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Nothing:
    """There is nothing to try.

    Attributes:
        reason: Why, in words that can be sent back to the model.
    """

    reason: str


def code_of(answer: Answer) -> Code | Nothing:
    """Return the source in an answer: the last fenced block that defines the class, or the text if it is bare source.

    Fences inside docstrings do not end a block, because a block ends only where Python's own reading of it agrees that
    no string is open.
    """
    unusable = _unusable(answer)
    if unusable is not None:
        return unusable
    blocks = [text for language, text in _blocks(answer.text) if language in CODE_LANGUAGES]
    if not blocks and "class FusionModule" in answer.text and not _has_fence(answer.text):
        blocks = [answer.text]
    if not blocks:
        return Nothing("the answer holds no fenced block of Python")
    defining = [text for text in blocks if "class FusionModule" in text]
    if not defining:
        return Nothing("no block of the answer defines class FusionModule")
    source = defining[-1].strip("\n") + "\n"
    if len(source) > LONGEST_SOURCE:
        return Nothing(f"the source has {len(source):,} characters, but at most {LONGEST_SOURCE:,} are read")
    return Code(source)


def tree_of(answer: Answer) -> Tree | Nothing:
    """Return the JSON object in an answer: its whole text, its last fenced block, or what is between its braces."""
    unusable = _unusable(answer)
    if unusable is not None:
        return unusable
    blocks = [text for language, text in _blocks(answer.text) if language in JSON_LANGUAGES]
    text = blocks[-1] if blocks else answer.text
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return Nothing("the answer holds no JSON object")
    if end - start > LONGEST_SOURCE:
        return Nothing(f"the JSON has {end - start:,} characters, but at most {LONGEST_SOURCE:,} are read")
    try:
        values = strict_json(text[start : end + 1])
    except ValueError as error:
        return Nothing(f"the answer is not usable JSON: {error}")
    assert isinstance(values, dict), "what begins with a brace and is JSON is an object"
    return Tree(cast("dict[str, Any]", values))


def _unusable(answer: Answer) -> Nothing | None:
    """Return why nothing in an answer can be used, whatever it says."""
    if answer.refusal:
        return Nothing(f"the model declined: {_line(answer.refusal)}")
    if not answer.text.strip():
        return Nothing("the answer is empty")
    if len(answer.text) > LONGEST_TEXT:
        return Nothing(f"the answer has {len(answer.text):,} characters, but at most {LONGEST_TEXT:,} are read")
    if answer.finish == "length":
        return Nothing("the answer was cut off at its longest; it must be shorter")
    if "\ufffd" in answer.text or "\x00" in answer.text:
        return Nothing("the answer holds bytes that are not text")
    if not _has_fence(answer.text) and "{" not in answer.text and _REFUSALS.match(answer.text):
        return Nothing(f"the model declined: {_line(answer.text)}")
    return None


def _blocks(text: str) -> list[tuple[str, str]]:
    """Return language and content of every fenced block that is closed; an open one at the end is left out."""
    lines = text.splitlines()
    found: list[tuple[str, str]] = []
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            number += 1
            continue
        language = opening["language"].lower()
        closing = _closing(lines, number, opening["marks"], is_code=language in CODE_LANGUAGES)
        if closing is None:
            break
        inside = lines[number + 1 : closing]
        indent = opening["indent"]
        found.append((language, "\n".join(line.removeprefix(indent) for line in inside)))
        number = closing + 1
    return found


def _closing(lines: list[str], opening: int, marks: str, *, is_code: bool) -> int | None:
    """Return the line that closes a fence: the first one that leaves no string open, else the first one at all."""
    passed: list[int] = []
    for number in range(opening + 1, len(lines)):
        fence = _FENCE.match(lines[number])
        closes = fence is not None and not fence["language"] and fence["marks"].startswith(marks)
        if not closes:
            continue
        passed.append(number)
        if not is_code or not _is_inside_string("\n".join(lines[opening + 1 : number])):
            return number
        if len(passed) == FENCES_IN_STRINGS:
            break
    return passed[0] if passed else None


def _is_inside_string(source: str) -> bool:
    """Return whether source ends inside a string in triple quotes."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(source).readline):
            pass
    except tokenize.TokenError as error:
        return "string" in str(error.args[0])
    except (SyntaxError, ValueError):
        return False
    return False


def _has_fence(text: str) -> bool:
    return any(_FENCE.match(line) for line in text.splitlines())


def _line(text: str, *, longest: int = 200) -> str:
    """Return the first line, capped, as a JSON string: data, not words of ours."""
    first = text.strip().splitlines()[0][:longest] if text.strip() else ""
    return json.dumps(first, ensure_ascii=False)
