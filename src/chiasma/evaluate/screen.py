"""Read generated source before anything of it runs, and say in a good sentence why it will not do.

An allow-list of syntax, names and dotted paths over the syntax tree. It is there for whoever wrote the source, and is
never the wall: what gets past it meets the jail. Names are not replaced by watched ones, and ``builtins`` stay as they
are, since torch's own C++ imports through them.
"""

import ast
import hashlib
import io
import re
import tokenize
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from chiasma.evaluate.screen_rules import Fault, faults_of

NAME = "FusionModule"
MOST_CHARACTERS = 40_000
MOST_NODES = 12_000
DEEPEST = 60
COOKIE = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
CONTRACT = {
    "__init__": ("image_dim", "text_dim", "dim"),
    "forward": ("image_tokens", "text_tokens", "image_mask", "text_mask"),
}


@dataclass(frozen=True)
class SourceRefusal:
    """Why a source was refused.

    Attributes:
        line: Where, counted from 1; 0 for the whole.
        rule: The rule's name, for counting.
        message: What is wrong and what to do instead.
    """

    line: int
    rule: str
    message: str

    @property
    def words(self) -> str:
        """Return it as one line."""
        return f"line {self.line}: {self.message}" if self.line else self.message


@dataclass(frozen=True)
class Screened:
    """A source that keeps the rules.

    Attributes:
        source: As it was given.
        sha256: Of its UTF-8 bytes: its identity.
    """

    source: str
    sha256: str


def screen(source: str | bytes) -> Screened | SourceRefusal:
    """Return the source, or the first thing in it that the rules do not allow. Nothing of it is run."""
    text = _text(source)
    if isinstance(text, SourceRefusal):
        return text
    for refusal in _faults(text):
        return refusal
    return Screened(text, hashlib.sha256(text.encode()).hexdigest())


def _text(source: str | bytes) -> str | SourceRefusal:
    if isinstance(source, bytes):
        try:
            source = source.decode()
        except UnicodeDecodeError as error:
            line = source[: error.start].count(b"\n") + 1
            return SourceRefusal(line, "encoding", "the source must be UTF-8, but it holds other bytes.")
    for number, line in enumerate(source.split("\n")[:2], start=1):
        cookie = COOKIE.match(line)
        if cookie is not None and cookie[1].lower() not in ("utf-8", "utf8"):
            return SourceRefusal(number, "encoding", f"the source must be UTF-8, but declares {cookie[1][:30]!r}.")
    return source


def _faults(text: str) -> Iterator[SourceRefusal]:
    """Yield what is wrong, cheapest check first; later checks assume that earlier ones passed."""
    if not text.strip():
        yield SourceRefusal(0, "contract", f"the source is empty; it must define the class {NAME}.")
        return
    if len(text) > MOST_CHARACTERS:
        message = f"the source has {len(text):,} characters, but the limit is {MOST_CHARACTERS:,}."
        yield SourceRefusal(0, "size", message)
        return
    yield from _odd_characters(text)
    yield from _odd_identifiers(text)
    tree = _parsed(text)
    if isinstance(tree, SourceRefusal):
        yield tree
        return
    yield from _too_large(tree)
    yield from (SourceRefusal(fault.line, fault.rule, fault.message) for fault in faults_of(tree))
    yield from (SourceRefusal(fault.line, fault.rule, fault.message) for fault in _contract(tree))


def _odd_characters(text: str) -> Iterator[SourceRefusal]:
    """Yield characters that make a reader see other lines or another order than Python does."""
    line = 1
    for place, letter in enumerate(text):
        if letter == "\n":
            line += 1
        elif letter == "\r" and text[place + 1 : place + 2] == "\n":
            continue
        elif letter != "\t" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            name = unicodedata.name(letter, "control character")
            yield SourceRefusal(line, "characters", f"the source holds U+{ord(letter):04X} ({name}), which hides text.")


def _odd_identifiers(text: str) -> Iterator[SourceRefusal]:
    """Yield names that Python would fold into others before it looks them up."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and not token.string.isascii():
                message = f"names must be plain ASCII, but one is {token.string[:40]!r}."
                yield SourceRefusal(token.start[0], "identifier", message)
    except (tokenize.TokenError, SyntaxError, RecursionError):
        return  # The parser says it better.


def _parsed(text: str) -> ast.Module | SourceRefusal:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        return SourceRefusal(error.lineno or 0, "syntax", f"this is not Python: {error.msg}.")
    except (RecursionError, MemoryError, ValueError):
        return SourceRefusal(0, "size", "the source is nested too deeply to be read.")


def _too_large(tree: ast.Module) -> Iterator[SourceRefusal]:
    """Walk without recursion: deep trees must not overflow the one who looks."""
    level: list[ast.AST] = [tree]
    nodes = depth = 0
    while level:
        depth, nodes = depth + 1, nodes + len(level)
        if depth > DEEPEST:
            line = getattr(level[0], "lineno", 0)
            yield SourceRefusal(
                line, "size", f"the source is nested more than {DEEPEST} deep; use shorter expressions."
            )
            return
        if nodes > MOST_NODES:
            yield SourceRefusal(0, "size", f"the source has more than {MOST_NODES:,} parts; write a shorter module.")
            return
        level = [child for node in level for child in ast.iter_child_nodes(node)]


def _contract(tree: ast.Module) -> Iterator[Fault]:
    """Yield where the class does not take what it will be given."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == NAME]
    top = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == NAME]
    if not top:
        yield Fault(0, "contract", f"the source must define the class {NAME} at its top level.")
        return
    if len(found) > 1:
        yield Fault(found[1].lineno, "contract", f"the class {NAME} must be defined once, but it is defined again.")
        return
    for node in top[0].body:
        if isinstance(node, ast.FunctionDef) and node.name in CONTRACT:
            yield from _signature(node, CONTRACT[node.name])


def _signature(node: ast.FunctionDef, wanted: tuple[str, ...]) -> Iterator[Fault]:
    given = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)][1:]
    required = len(given) - len(node.args.defaults)
    open_ended = node.args.vararg is not None or node.args.kwarg is not None
    enough = len(given) >= len(wanted) or open_ended
    keyword_only = [
        a.arg for a, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value is None
    ]
    if not enough or required > len(wanted) or set(keyword_only) - set(wanted):
        message = f"{NAME}.{node.name} must take ({', '.join(wanted)}), but takes ({', '.join(given + keyword_only)})."
        yield Fault(node.lineno, "contract", message)
