"""Where a value is there: in rows that have an image, a text, either, or both; known before anything runs."""

from typing import Literal

Presence = Literal["image", "text", "either", "both"]

_COVERS: dict[Presence, frozenset[str]] = {
    "both": frozenset({"both"}),
    "image": frozenset({"both", "image only"}),
    "text": frozenset({"both", "text only"}),
    "either": frozenset({"both", "image only", "text only"}),
}
_NAMED: dict[frozenset[str], Presence] = {rows: name for name, rows in _COVERS.items()}


def union(*given: Presence) -> Presence:
    """Return where at least one of several values is there."""
    return _NAMED[frozenset[str]().union(*(_COVERS[each] for each in given))]


def overlap(first: Presence, second: Presence) -> Presence:
    """Return where both of two values are there."""
    return _NAMED[_COVERS[first] & _COVERS[second]]
