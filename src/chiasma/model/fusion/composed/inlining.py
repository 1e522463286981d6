"""Definitions of Chiasma's modules, copied with all that they need into a file that runs without Chiasma."""

import ast
import inspect
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from types import ModuleType

OURS = "chiasma."
PREFIX = "parts"


class Inlined:
    """Collects functions, classes and constants by name, each after what it needs, without annotations.

    Args:
        replaced: Sources that stand in for definitions of that name.
        constructors: Sources of ``__init__`` that stand in for those of classes of that name.

    Attributes:
        definitions: The sources.
    """

    def __init__(self, *, replaced: Mapping[str, str], constructors: Mapping[str, str]) -> None:
        self._replaced = replaced
        self._constructors = constructors
        self._begun: set[str] = set()
        self.definitions: list[str] = []

    def text(self, source: str, module: ModuleType) -> str:
        """Return a source without the prefix ``parts.``, and collect what it needs of that module."""
        tree = _Plain().visit(ast.parse(source))
        self._collect(tree, module.__name__)
        return ast.unparse(tree)

    def define(self, name: str, source: str, module: ModuleType) -> None:
        """Add a definition of one's own that uses ``parts.`` of a module; once for each name."""
        if name not in self._begun:
            self._begun.add(name)
            self.definitions.append(self.text(source, module))

    def need(self, name: str, module: str) -> None:
        """Add what a module calls by this name, if it is a definition of ours, and what that needs."""
        node = _definitions(module).get(name)
        if name in self._begun or node is None:
            return
        if isinstance(node, ast.ImportFrom):
            if node.module is not None and node.module.startswith(OURS):
                self.need(name, node.module)
            return
        self._begun.add(name)
        if name in self._replaced:
            node = ast.parse(self._replaced[name]).body[0]
        plain = _Plain().visit(ast.parse(ast.unparse(node)).body[0])
        if name in self._constructors:
            plain.body = [_constructor(each, self._constructors[name]) for each in plain.body]
        self._collect(plain, module)
        self.definitions.append(ast.unparse(plain))

    def _collect(self, tree: ast.AST, module: str) -> None:
        for each in ast.walk(tree):
            if isinstance(each, ast.Name):
                self.need(each.id, module)


class _Plain(ast.NodeTransformer):
    """Takes out annotations, and the prefix of our own parts."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        for each in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            each.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        return None if node.value is None else ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        ours = isinstance(node.value, ast.Name) and node.value.id == PREFIX
        return ast.Name(node.attr, node.ctx) if ours else node


def _constructor(node: ast.stmt, source: str) -> ast.stmt:
    if isinstance(node, ast.FunctionDef) and node.name == "__init__":
        return ast.parse(source).body[0]
    return node


@lru_cache(maxsize=64)
def _definitions(module: str) -> dict[str, ast.stmt]:
    """Return what a module defines or imports, by name."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(inspect.getsource(import_module(module))).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found
