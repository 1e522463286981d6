"""Whether a design has been seen: by its form, by its source, or by what it does."""

import ast
import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence

from chiasma.train.design import Design


class UnreadableSourceError(ValueError):
    """Source that Python itself cannot read; one line says where and why."""


def normalised_source(source: str) -> str:
    """Return source without comments, docstrings and spacing: equal for modules that differ in these alone.

    Raises:
        UnreadableSourceError: It is not Python.
    """
    try:
        with warnings.catch_warnings():
            # What the author's strings look like is no concern of ours.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    node.body = _without_docstring(node.body)
            return ast.unparse(tree)
    except SyntaxError as error:
        raise UnreadableSourceError(f"SyntaxError: {error.msg} (line {error.lineno})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UnreadableSourceError(f"{type(error).__name__}: the source cannot be read") from None


def source_hash(source: str) -> str:
    """Return 16 hexadecimal digits, equal for sources that differ in comments, docstrings and spacing alone.

    Raises:
        UnreadableSourceError: It is not Python.
    """
    return hashlib.sha256(normalised_source(source).encode(errors="replace")).hexdigest()[:16]


class Novelty:
    """Remembers what was seen, each design under every name that is equal for equal designs.

    Args:
        names: Return such names, the cheapest first: the hash of the canonical form, of the normalised source, or of
            what the design does.
    """

    def __init__(self, names: Sequence[Callable[[Design], str]]) -> None:
        self._names = tuple(names)
        self.seen: dict[str, str] = {}

    def known(self, design: Design) -> str | None:
        """Return the hash of a design that was seen and is equal to this one, or None."""
        own = design.content_hash()
        if own in self.seen:
            return self.seen[own]
        return next((self.seen[name] for name in (each(design) for each in self._names) if name in self.seen), None)

    def add(self, design: Design) -> None:
        """Remember a design."""
        own = design.content_hash()
        if own in self.seen:
            return
        self.seen[own] = own
        for each in self._names:
            self.seen.setdefault(each(design), own)

    def state(self) -> dict[str, str]:
        """Return JSON from which :meth:`load` continues."""
        return dict(self.seen)

    def load(self, state: Iterable[tuple[str, str]]) -> None:
        """Continue from :meth:`state`."""
        self.seen = {str(name): str(own) for name, own in state}


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return (body[1:] or [ast.Pass()]) if is_text else body
