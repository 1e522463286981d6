"""How those who proposed did: who gained what, and what a language model wrote and cost; titles with lines."""

from collections.abc import Mapping
from typing import Any

Said = tuple[str, list[str]]
"""A title, and the lines below it."""


def gain_lines(gains: Mapping[str, float]) -> list[Said]:
    """Return by how much each proposer lowered the lowest error, where the report has no table of that."""
    lines = [f"{name}: {gain:.4f}" for name, gain in gains.items()]
    return [("By how much each proposer lowered the lowest error on select", lines)] if lines else []


def proposing_lines(told: Mapping[str, Any]) -> list[Said]:
    """Return how those who proposed fusions did: by author, by family, and what a language model wrote.

    Args:
        told: What a search for fusions came to, as JSON; nothing is returned where it is empty.
    """
    if not told:
        return []
    credits = [
        f"{name}: {each['candidates']} candidates, {each['valid']} trained, {each['invalid']} refused, the best reward "
        f"raised by {each['gain']:.4f}"
        for name, each in told["credits"].items()
    ]
    families = [f"{count} × {name}" for name, count in sorted(told["families"].items(), key=lambda item: -item[1])]
    found = [("Who made the fusions, and what they gained", credits), ("What they were asked to be", families)]
    written = told["written"]
    if written["asked"]:
        lines = [
            f"{written['asked']} designs asked for, {written['usable']} written, {written['at_once']} of them at once",
            f"{written['answers']} answers read{_usable(written)}",
            *_spent(told.get("spent")),
            *(f"{count} × refused: {reason}" for reason, count in written["refused"].items()),
            *(f"{count} × the grammar instead: {reason}" for reason, count in written["instead"].items()),
        ]
        found.append(("What the language model wrote", lines))
    return [(title, lines) for title, lines in found if lines]


def gone_words(why: str) -> str:
    """Return what becomes of a search whose language model refuses for good, such as for a wrong key.

    Args:
        why: In the words of whoever asked it, with the remedy where there is one.
    """
    return (
        f"The language model is not asked any more: {why.rstrip('.')}. The grammar takes over; begin a new run to ask "
        "again."
    )


def gone_notes(told: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of a language model that was not asked to the end; nothing where it was."""
    return [gone_words(told["gone"])] if "gone" in told else []


def spent_words(spent: Mapping[str, Any]) -> str:
    """Return dollars and tokens; of dollars that they are not known where no prices are."""
    tokens = f"{spent['tokens']:,} tokens"
    dollars = spent["dollars"]
    return f"{tokens}, cost unknown (llm.prices)" if dollars is None else f"${dollars:.4f} and {tokens}"


def _usable(written: Mapping[str, Any]) -> str:
    return f", {written['usable'] / written['answers']:.0%} of them usable" if written["answers"] else ""


def _spent(spent: Mapping[str, Any] | None) -> list[str]:
    """Return what all calls came to, those without an answer included."""
    if spent is None:
        return []
    calls = ", ".join(f"{count} {outcome}" for outcome, count in sorted(spent["calls"].items())) or "none"
    return [f"{spent_words(spent)}; calls: {calls}"]
