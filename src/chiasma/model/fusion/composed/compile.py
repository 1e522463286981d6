"""From a tree to straight-line PyTorch: the source of a readable module, and the class that it defines.

Masks are put in here, never by the tree: wherever tokens mix, and wherever a value is not there in some rows.
"""

import linecache
import re
from collections.abc import Callable
from functools import lru_cache
from string import Formatter
from typing import Any

import torch
from torch import nn

from chiasma.model.fusion.composed import parts
from chiasma.model.fusion.composed.formula import formula
from chiasma.model.fusion.composed.node import FusionNode
from chiasma.model.fusion.composed.ops import OPS, POOLS
from chiasma.model.fusion.composed.presence import Presence, union
from chiasma.model.fusion.composed.tree import FusionTree, There, there_of
from chiasma.model.graph.compile import part_names
from chiasma.model.graph.node import Source

CLASS = "FusionModule"
LETTERS = "abc"
_ROWS: dict[str, str] = {
    "image": "image_mask.any(1)",
    "text": "text_mask.any(1)",
    "either": "image_mask.any(1) | text_mask.any(1)",
    "both": "image_mask.any(1) & text_mask.any(1)",
}


def module_of(tree: FusionTree, dim: int, *, dropout: float) -> nn.Module:
    """Return a module that computes a tree for tokens of width ``dim``."""
    attentions = tuple(node.attention for node in tree.nodes)
    return _defined(class_source(tree), tree.content_hash())(dim, dropout, attentions)


def class_source(tree: FusionTree) -> str:
    """Return the source of the class that computes a tree inside of Chiasma."""
    emitter = Emitter(tree)
    lines = [f"self.{name} = {code}" for name, code in emitter.constructors("attentions[{}]".format, "dropout").items()]
    body = "".join(f"        {line}\n" for line in ["super().__init__()", *lines])
    forward = "".join(f"        {line}\n" for line in emitter.forward())
    return (
        f'class {CLASS}(nn.Module):\n    """{formula(tree)}"""\n\n'
        f"    def __init__(self, dim, dropout, attentions):\n{body}\n"
        f"    def forward(self, image, text, image_mask, text_mask):\n{forward}"
    )


@lru_cache(maxsize=256)
def _defined(source: str, hash: str) -> Any:
    name = f"<fusion {hash}>"
    # Known to linecache, tracebacks and debuggers show the lines.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"nn": nn, "parts": parts, "torch": torch, "__name__": __name__}
    exec(compile(source, name, "exec"), scope)  # Our own text: names and constants come from the table of operators.
    return scope[CLASS]


class Emitter:
    """Writes the lines of ``forward`` node by node; each value, each mask and each set of rows has a name.

    Args:
        tree: What to write.
    """

    def __init__(self, tree: FusionTree) -> None:
        self.tree = tree
        self.names = part_names(tree.nodes, OPS)
        self._masks: dict[str, str] = {}
        self._rows: dict[str, str] = {}

    def constructors(self, attention: Callable[[int], str], dropout: str) -> dict[str, str]:
        """Return the constructor of each learned part, by its name.

        Args:
            attention: Returns how the attention of a node is written.
            dropout: How dropout is written.
        """
        found: dict[str, str] = {}
        for place, name in self.names.items():
            node = self.tree.nodes[place]
            given = {"attention": attention(place), "dropout": dropout}
            given["crossed"] = str(len(set(node.inputs)) > 1)
            found[name] = _folded(OPS[node.op].part.format(**node.constants, **given))
        return found

    def forward(self) -> list[str]:
        """Return the lines after which the result is returned as tokens with their mask."""
        lines = [f"{self.value(place)} = {self._code(place, node)}" for place, node in enumerate(self.tree.nodes)]
        last = len(self.tree.nodes) - 1
        if self.tree.kinds[last] == "vector":
            rows = self._row(self.tree.there[last])
            lines.append(f"return {self.value(last)}[:, None], {rows}[:, None]")
        else:
            mask = self._mask(last)
            lines.append(f"return parts.filled({self.value(last)}, {mask}, 0.0), {mask}")
        rows = [f"{name} = {code}" for name, code in self._rows.items()]
        masks = [f"{name} = {code}" for name, code in self._masks.items()]
        zeros = [f"{name} = parts.filled({name}, {name}_mask, 0.0)" for name in ("image", "text")]
        return [*zeros, *rows, *masks, *lines]

    def value(self, source: Source) -> str:
        """Return the name of a value."""
        return source if isinstance(source, str) else f"{self.tree.nodes[source].op}_{source}"

    def _code(self, place: int, node: FusionNode) -> str:
        code = OPS[node.op].code
        asked = {name for _, name, _, _ in Formatter().parse(code) if name}
        return code.format(**{name: self._meant(name, place, node) for name in asked})

    def _meant(self, name: str, place: int, node: FusionNode) -> Any:
        """Return what a name in the table's code stands for."""
        if name in node.constants:
            return node.constants[name]
        if name == "part":
            return f"self.{self.names[place]}"
        if name == "out_mask":
            return self._mask(place)
        letter, _, what = name.partition("_")
        source = node.inputs[LETTERS.index(letter)]
        if what == "mask":
            return self._mask(source)
        if what == "there":
            return self._row(self._there(source))
        return self._neutral(source, place, what) if what else self.value(source)

    def _neutral(self, source: Source, place: int, what: str) -> str:
        """Return a value with zeros or ones where it is not there while the result is."""
        zeroed = isinstance(source, str) or self.tree.nodes[source].op in POOLS
        if self._there(source) == self.tree.there[place] or (zeroed and what == "zero"):
            return self.value(source)
        vector = not isinstance(source, str) and self.tree.kinds[source] == "vector"
        where = self._row(self._there(source)) if vector else self._mask(source)
        return f"parts.filled({self.value(source)}, {where}, {float(what == 'one')})"

    def _there(self, source: Source) -> There:
        return there_of(source, self.tree.there)

    def _row(self, there: There) -> str:
        """Return the name of the rows in which a value is there."""
        rows = union(*there)
        self._rows.setdefault(f"{rows}_there", _ROWS[rows])
        return f"{rows}_there"

    def _mask(self, source: Source) -> str:
        """Return the name of which tokens count."""
        there = self._there(source)
        kind = source if isinstance(source, str) else self.tree.kinds[source]
        if kind != "joint":
            return self._mask_of(kind, there[0])
        names = [self._mask_of(side, part) for side, part in zip(("image", "text"), there, strict=True)]
        name = "_".join(["joint", *there, "mask"])
        self._masks.setdefault(name, f"torch.cat([{', '.join(names)}], dim=1)")
        return name

    def _mask_of(self, side: str, there: Presence) -> str:
        if there == side:
            return f"{side}_mask"
        name = f"{side}_{there}_mask"
        # Where the modality is absent and something else stands in for it, its first token does.
        code = f"parts.at_least_one({side}_mask) & {self._row((there,))}[:, None]"
        self._masks.setdefault(name, code)
        return name


def _folded(code: str) -> str:
    """Return a constructor as a person would write it: without factors of 1 and 0."""
    return re.sub(r"\b0 \* dim", "0", re.sub(r"\b1 \* dim", "dim", code))
