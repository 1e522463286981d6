"""The architecture, as rules that the source must keep: layers, generators, unpickling, the sealed test split."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "chiasma"
FILES = sorted(SOURCE.rglob("*.py"))

RANKS = {
    "core": 1,
    "data": 2,
    "store": 2,
    "model": 3,
    "train": 4,
    "adapt": 5,
    "search": 6,
    "evaluate": 6,
    "experiment": 7,
    "presets": 7,
    "cli": 8,
    "pipelines": 8,
    "api": 8,
    "extend": 8,
    "hydra": 9,
    "__main__": 9,
}

TREES = {path: ast.parse(path.read_text(), str(path)) for path in FILES}


def layer(module: str) -> str:
    """Return the layer of ``chiasma.layer.rest``; the package itself has none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that is imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = module.split(".")[: -node.level]
                yield node.lineno, ".".join([*package, node.module or ""]).rstrip(".")
            elif node.module == "chiasma":
                yield from ((node.lineno, f"chiasma.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def calls(tree: ast.AST) -> Iterator[tuple[int, str, ast.Call]]:
    """Yield line, dotted name and node of every call of a plain or dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def places(rule: str, hits: list[tuple[Path, int]]) -> str:
    return "\n".join([rule, *(f"  {path.relative_to(SOURCE.parent.parent)}:{line}" for path, line in hits)])


def test_every_folder_has_a_rank():
    found = {layer(module_of(path)) for path in FILES} - {""}
    assert found <= RANKS.keys()


def test_a_layer_imports_only_from_lower_ranks():
    wrong: list[tuple[Path, int]] = []
    for path, tree in TREES.items():
        own = layer(module_of(path))
        for line, name in imported(tree, module_of(path)):
            other = layer(name) if name.split(".")[0] == "chiasma" else ""
            if not own or not other or own == other or other not in RANKS:
                continue
            if RANKS[other] >= RANKS[own]:
                wrong.append((path, line))
    assert not wrong, places("These import from their own rank or a higher one:", wrong)


def test_the_package_itself_imports_layers_only_when_they_are_used():
    top = TREES[SOURCE / "__init__.py"]
    eager = [node for node in top.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in eager] == ["import importlib", "from typing import TYPE_CHECKING, Any"]


@pytest.mark.parametrize("module", ["chiasma", "chiasma.cli.main", "chiasma.store.run", "chiasma.store.folders"])
def test_starting_up_does_not_import_torch(module: str):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_scikit_learn_is_imported_where_it_fits_something():
    """Importing it takes a second, which a verb that only reads runs need not spend; estimators are made of it."""
    hits = [
        (path, node.lineno)
        for path, tree in TREES.items()
        if path != SOURCE / "api.py"
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for _, name in imported(node, module_of(path))
        if name.partition(".")[0] == "sklearn" or name in ("scipy.stats", "scipy.optimize")
    ]
    assert not hits, places("scikit-learn, scipy.stats and scipy.optimize are imported inside functions.", hits)


def test_torchs_global_generator_is_touched_in_one_file():
    hits = [
        (path, line)
        for path, tree in TREES.items()
        for line, name, _ in calls(tree)
        if name.split(".")[-1] in ("manual_seed", "manual_seed_all", "set_rng_state", "seed_all")
        and path != SOURCE / "core" / "rng.py"
        and not name.startswith(("generator.", "torch.Generator("))
    ]
    assert not hits, places("Only core/rng.py seeds torch:", hits)


def test_global_generators_of_numpy_and_python_are_not_used():
    hits = [
        (path, line)
        for path, tree in TREES.items()
        for line, name, _ in calls(tree)
        if name in ("random.seed", "random.random", "random.shuffle", "random.choice", "random.randint")
        or (name.startswith("np.random.") and name not in ("np.random.default_rng", "np.random.Generator"))
    ]
    assert not hits, places("Randomness is a function of a path; these draw from a global generator:", hits)


# The compilers of graphs run text that they wrote themselves, from operators and constants of a closed table.
# Generated source is run in the jail, or in a process whose user approved its hash.
RUN = {
    ("model/graph/compile.py", "exec"),
    ("model/fusion/composed/compile.py", "exec"),
    ("model/generated.py", "exec"),
}


def test_nothing_is_unpickled_or_evaluated():
    forbidden = ("pickle.load", "pickle.loads", "eval", "exec", "joblib.load", "torch.jit.load", "torch.export.load")
    hits = [
        (path, line)
        for path, tree in TREES.items()
        for line, name, call in calls(tree)
        if (name in forbidden and (path.relative_to(SOURCE).as_posix(), name) not in RUN)
        or (name == "torch.load" and not _weights_only(call))
    ]
    hits += [
        (path, line)
        for path, tree in TREES.items()
        for line, name, call in calls(tree)
        if name == "np.load" and any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in call.keywords)
    ]
    assert not hits, places("Loading never executes code:", hits)


def _weights_only(call: ast.Call) -> bool:
    return any(keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in call.keywords)


def test_one_code_path_opens_the_test_split():
    openers = sorted(
        {
            str(path.relative_to(SOURCE))
            for path, tree in TREES.items()
            for _, name, _ in calls(tree)
            if name.split(".")[-1] == "test_rows"
        }
    )
    assert len(openers) == 1, openers
    assert openers[0].startswith("experiment/")


def test_only_the_faces_print():
    hits = [
        (path, line)
        for path, tree in TREES.items()
        for line, name, _ in calls(tree)
        if name == "print" and layer(module_of(path)) not in ("cli", "api")
    ]
    assert not hits, places("Only the command line and the Python face print:", hits)


def test_there_are_no_drawers_for_everything():
    names = {"utils", "helpers", "common", "base", "misc"}
    assert not [path for path in FILES if path.stem in names]


def test_a_file_is_one_idea():
    long = {str(path.relative_to(SOURCE)): lines for path in FILES if (lines := path.read_text().count("\n")) > 420}
    assert long == {}


def test_errors_are_caught_broadly_only_at_the_process_boundary():
    boundaries = {"cli", "evaluate", "hydra"}
    # Other programs can fail in any way, and a training must go on without them.
    guards = {SOURCE / "train" / name for name in ("trackers.py", "wandb_tracker.py", "mlflow_tracker.py")}
    hits = [
        (path, node.lineno)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and path not in guards
        and layer(module_of(path)) not in boundaries
        and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]
    assert not hits, places("A broad except stands only at the process boundary:", hits)
