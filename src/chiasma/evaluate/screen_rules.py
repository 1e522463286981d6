"""The rules of the screen: which syntax, which names, and which dotted paths generated source may use."""

import ast
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from chiasma.core.spec import suggestion
from chiasma.evaluate.screen_names import (
    BUILTINS,
    CLASS_VARIABLES,
    FORBIDDEN_ATTRIBUTES,
    METHODS,
    MODULES,
    OTHER_ATTRIBUTES,
    TENSOR_METHODS,
)

REFUSED_SYNTAX: Mapping[type[ast.AST], str] = {
    ast.Global: "global statements",
    ast.AsyncFunctionDef: "asynchronous functions",
    ast.AsyncFor: "asynchronous loops",
    ast.AsyncWith: "asynchronous contexts",
    ast.Await: "await",
    ast.TryStar: "except*",
    ast.MatchClass: "class patterns",
}
ALLOWED_SYNTAX = (
    *(ast.Module, ast.FunctionDef, ast.ClassDef, ast.Return, ast.Delete, ast.Assign, ast.AugAssign, ast.AnnAssign),
    *(ast.For, ast.While, ast.If, ast.With, ast.Raise, ast.Try, ast.Assert, ast.Import, ast.ImportFrom, ast.Expr),
    *(ast.Pass, ast.Break, ast.Continue, ast.Nonlocal, ast.BoolOp, ast.NamedExpr, ast.BinOp, ast.UnaryOp, ast.Lambda),
    *(ast.IfExp, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Yield),
    *(ast.YieldFrom, ast.Compare, ast.Call, ast.FormattedValue, ast.JoinedStr, ast.Constant, ast.Attribute),
    *(ast.Subscript, ast.Starred, ast.Name, ast.List, ast.Tuple, ast.Slice, ast.comprehension, ast.ExceptHandler),
    *(ast.arguments, ast.arg, ast.keyword, ast.alias, ast.withitem, ast.expr_context, ast.boolop, ast.operator),
    *(ast.unaryop, ast.cmpop, ast.Match, ast.match_case, ast.MatchValue, ast.MatchSingleton, ast.MatchSequence),
    *(ast.MatchAs, ast.MatchOr, ast.MatchStar),
)
RULES = ("import", "paths", "state", "classes", "syntax", "names", "attributes", "numbers")
TOO_LARGE = 10**12
LARGEST_POWER = 1000
SHORTEST_PREFIX = 2


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where."""

    line: int
    rule: str
    message: str


@dataclass
class Scope:
    """What a source names, over all of it.

    Attributes:
        modules: What imports bind to modules, by name: ``{"F": "torch.nn.functional"}``.
        members: What imports bind to members of modules: ``{"Tensor": "torch.Tensor"}``.
        bound: Every name that it binds in another way.
        own: Every attribute that it defines on something of its own.
        parents: Of each node.
    """

    modules: dict[str, str] = field(default_factory=dict[str, str])
    members: dict[str, str] = field(default_factory=dict[str, str])
    bound: set[str] = field(default_factory=set[str])
    own: set[str] = field(default_factory=set[str])
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict[ast.AST, ast.AST])


def faults_of(tree: ast.Module) -> list[Fault]:
    """Return what the rules do not allow, line by line; on one line the more telling rule first."""
    return sorted(_faults(tree), key=lambda fault: (fault.line, RULES.index(fault.rule)))


def _faults(tree: ast.Module) -> Iterator[Fault]:
    scope = Scope()
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            scope.parents[child] = node
    for node in ast.walk(tree):
        yield from _imports(node, scope)
    for node in ast.walk(tree):
        _collect(node, scope)
    for name in sorted(scope.bound & {*scope.modules, *scope.members}):
        yield Fault(0, "names", f"{name!r} is imported and must not be given another meaning.")
    for node in ast.walk(tree):
        yield from _syntax(node)
        yield from _definition(node, scope)
        if isinstance(node, ast.Name):
            yield from _name(node, scope)
        elif isinstance(node, ast.Attribute):
            yield from _attribute(node, scope)
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _imports(node: ast.AST, scope: Scope) -> Iterator[Fault]:
    """Note what an import binds; yield what may not be imported."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name not in MODULES:
                yield _no_module(node.lineno, alias.name)
            elif alias.asname is None:
                top = alias.name.partition(".")[0]
                scope.modules[top] = top
            else:
                scope.modules[alias.asname] = alias.name
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level or module not in MODULES:
            yield _no_module(node.lineno, "." * node.level + module)
            return
        for alias in node.names:
            path, name = f"{module}.{alias.name}", alias.asname or alias.name
            if path in MODULES:
                scope.modules[name] = path
            elif alias.name in MODULES[module]:
                scope.members[name] = path
            else:
                yield Fault(node.lineno, "import", f"{path} may not be imported.{_near(alias.name, MODULES[module])}")


def _no_module(line: int, name: str) -> Fault:
    return Fault(line, "import", f"{name} may not be imported; use torch, torch.nn, torch.nn.functional, math, typing.")


def _collect(node: ast.AST, scope: Scope) -> None:
    """Note what a node binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope.bound.add(node.name)
        scope.own.add(node.name)
    elif isinstance(node, ast.arg):
        scope.bound.add(node.arg)
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        scope.bound.add(node.id)
        if isinstance(_holder(node, scope), ast.ClassDef):
            scope.own.add(node.id)
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        scope.bound.add(node.name)
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        scope.own.add(node.attr)
    elif isinstance(node, ast.Call):
        scope.own |= _registered(node)


def _registered(node: ast.Call) -> set[str]:
    """Return the attributes that a call makes by name: buffers, parameters, namedtuples, namespaces, keyword fields."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    texts = [value.value for value in node.args if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    if called in ("register_buffer", "register_parameter", "add_module", "register_module", "setattr"):
        return set(texts[:1])
    if called == "namedtuple":
        listed = [item for value in node.args if isinstance(value, ast.List | ast.Tuple) for item in value.elts]
        names = [item.value for item in listed if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        return {*names, *(name for text in texts[1:] for name in text.replace(",", " ").split())}
    if called == "SimpleNamespace":
        return {keyword.arg for keyword in node.keywords if keyword.arg}
    return set()


def _holder(node: ast.AST, scope: Scope) -> ast.AST | None:
    """Return the function or class in which a node stands, or None at the top."""
    above = scope.parents.get(node)
    while above is not None and not isinstance(above, ast.FunctionDef | ast.ClassDef | ast.Lambda):
        above = scope.parents.get(above)
    return above


def _syntax(node: ast.AST) -> Iterator[Fault]:
    line = getattr(node, "lineno", 0)
    if type(node) in REFUSED_SYNTAX:
        yield Fault(line, "syntax", f"{REFUSED_SYNTAX[type(node)]} may not be used.")
    elif not isinstance(node, ALLOWED_SYNTAX):
        yield Fault(line, "syntax", f"{type(node).__name__} may not be used.")
    elif isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) > TOO_LARGE:
        yield Fault(line, "numbers", f"whole numbers may not exceed {TOO_LARGE:,}.")
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and _is_large_power(node.right):
        yield Fault(line, "numbers", f"powers above {LARGEST_POWER} may not be taken.")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        yield Fault(line, "syntax", "bytes may not be used.")


def _is_large_power(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and node.value > LARGEST_POWER
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _definition(node: ast.AST, scope: Scope) -> Iterator[Fault]:
    """Yield names that may not be defined, and classes that would not be what they seem."""
    if isinstance(node, ast.FunctionDef) and _is_dunder(node.name) and node.name not in METHODS:
        yield Fault(node.lineno, "names", f"{node.name} may not be defined: Python calls it unseen.")
    elif isinstance(node, ast.ClassDef):
        if node.keywords:
            yield Fault(node.lineno, "classes", "classes may not have keywords such as metaclass.")
        for base in node.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            path = _path(plain, scope)
            if not isinstance(plain, ast.Name | ast.Attribute) or path in ("torch.Tensor", "torch.nn.Parameter"):
                yield Fault(node.lineno, "classes", f"{ast.unparse(base)[:60]} may not be a base class.")
    elif isinstance(node, ast.ExceptHandler) and node.type is None:
        yield Fault(node.lineno, "syntax", "a bare except may not be used; name the exception.")


def _name(node: ast.Name, scope: Scope) -> Iterator[Fault]:
    name = node.id
    if not isinstance(node.ctx, ast.Load):
        if name in BUILTINS or (_is_dunder(name) and name not in CLASS_VARIABLES):
            yield Fault(node.lineno, "names", f"{name!r} may not be given another meaning.")
        return
    if name in scope.modules:
        above = scope.parents.get(node)
        if not (isinstance(above, ast.Attribute) and above.value is node):
            yield Fault(node.lineno, "paths", f"the module {name!r} may only be used as {name}.something.")
    elif name not in scope.bound and name not in scope.members and name not in BUILTINS:
        yield Fault(node.lineno, "names", f"the name {name!r} is neither defined here nor one that may be used.")
    elif name in ("getattr", "setattr", "hasattr", "type"):
        above = scope.parents.get(node)
        if name not in scope.bound and not (isinstance(above, ast.Call) and above.func is node):
            yield Fault(node.lineno, "names", f"{name!r} may only be called.")


def _attribute(node: ast.Attribute, scope: Scope) -> Iterator[Fault]:
    path = _path(node, scope)
    root = _root(node)
    imported = isinstance(root, ast.Name) and root.id in {*scope.modules, *scope.members}
    if imported and not isinstance(node.ctx, ast.Load):
        yield Fault(node.lineno, "state", f"{ast.unparse(node)[:60]} belongs to everybody and may not be changed.")
    elif path is not None:
        yield from _dotted(node, path, scope)
    else:
        yield from _member(node, scope)


def _dotted(node: ast.Attribute, path: str, scope: Scope) -> Iterator[Fault]:
    """Check a path from a module: into a listed module, or to a listed member of one."""
    module, _, member = path.rpartition(".")
    above = scope.parents.get(node)
    if path in MODULES and not (module in MODULES and member in MODULES[module]):
        if not (isinstance(above, ast.Attribute) and above.value is node):
            yield Fault(node.lineno, "paths", f"the module {path} may only be used as {path}.something.")
    elif module in MODULES and not (member in MODULES[module] or _is_in_place(member, module)):
        yield Fault(node.lineno, "paths", f"{path} may not be used.{_near(member, MODULES[module])}")


def _is_in_place(member: str, module: str) -> bool:
    return module == "torch" and member.endswith("_") and member[:-1] in TENSOR_METHODS and not member.endswith("__")


def _member(node: ast.Attribute, scope: Scope) -> Iterator[Fault]:
    """Check an attribute of a value, whatever the value is."""
    name, above = node.attr, scope.parents.get(node)
    if name == "__init__" and isinstance(above, ast.Call) and above.func is node:
        return
    if name == "__class__" and isinstance(above, ast.Attribute) and above.attr == "__name__":
        return
    if name == "__name__" and ast.unparse(node.value).endswith(("__class__", ")")):
        return
    if name == "format":
        if not (isinstance(node.value, ast.Constant) and _is_plain_template(str(node.value.value))):
            yield Fault(
                node.lineno, "attributes", "format may only fill a literal template without dots; use f-strings."
            )
        return
    own = name in scope.own and not _is_dunder(name)
    listed = name in TENSOR_METHODS or name in OTHER_ATTRIBUTES or (name.endswith("_") and name[:-1] in TENSOR_METHODS)
    if name in FORBIDDEN_ATTRIBUTES or not (own or listed):
        near = _near(name, TENSOR_METHODS | OTHER_ATTRIBUTES)
        yield Fault(node.lineno, "attributes", f"the attribute {name!r} may not be used.{near}")


def _call(node: ast.Call) -> Iterator[Fault]:
    if not isinstance(node.func, ast.Name):
        return
    name = node.func.id
    if name == "type" and (len(node.args) != 1 or node.keywords):
        yield Fault(node.lineno, "names", "type may only be asked for the type of one value.")
    if name not in ("getattr", "setattr", "hasattr"):
        return
    mine = len(node.args) >= 2 and isinstance(node.args[0], ast.Name) and node.args[0].id == "self"
    if not mine or not _is_tame(node.args[1]):
        message = f"{name} may only be used as {name}(self, 'name') or with a name that begins with literal letters."
        yield Fault(node.lineno, "attributes", message)


def _is_tame(name: ast.expr) -> bool:
    """Return whether a computed attribute name begins with letters that lead to nothing forbidden."""
    first = name
    if isinstance(name, ast.JoinedStr) and name.values:
        first = name.values[0]
    while isinstance(first, ast.BinOp):
        first = first.left
    if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
        return False
    prefix = first.value.partition("%")[0]
    whole = first is name
    leads = prefix in FORBIDDEN_ATTRIBUTES if whole else any(each.startswith(prefix) for each in FORBIDDEN_ATTRIBUTES)
    return len(prefix) >= SHORTEST_PREFIX and prefix[0].isalpha() and not leads


def _is_plain_template(template: str) -> bool:
    """Return whether a format string only inserts values, without reaching into them."""
    try:
        fields = [(name or "", spec or "") for _, name, spec, _ in string.Formatter().parse(template)]
    except ValueError:
        return False
    return not any("." in name or "[" in name or "{" in spec for name, spec in fields)


def _root(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node


def _path(node: ast.AST, scope: Scope) -> str | None:
    """Return the dotted path from a module that an expression is, or None where it goes through a value."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    path = scope.modules.get(node.id) or (scope.members.get(node.id) if not names else None)
    for name in reversed(names):
        if path not in MODULES:
            return None
        path = f"{path}.{name}"
    return path


def _is_dunder(name: str) -> bool:
    return name.startswith("__")


def _near(name: str, known: frozenset[str] | set[str]) -> str:
    return suggestion(name, sorted(known))
