"""Where a result came from: code, packages, machine, seed and command; never the environment's values."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import chiasma
from chiasma.core.spec import canonical_json
from chiasma.store.secrets import mask_command

# What the bits of a training depend on; other packages are recorded but not compared.
_NUMERIC_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "pillow", "tokenizers", "transformers")


def provenance(command: Sequence[str], seed: int) -> dict[str, Any]:
    """Return where a run comes from, as plain JSON.

    Args:
        command: The command line; anything like a key, token or password in it is masked.
        seed: The seed from which all randomness follows.
    """
    environment = describe_environment()
    return {
        "chiasma": {"version": chiasma.__version__, **git_state(Path(chiasma.__file__).parent)},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": mask_command(command),
        "seed": seed,
        "environment": environment,
        "fingerprint": hashlib.sha256(canonical_json(environment).encode()).hexdigest()[:16],
        "packages": dict(_packages()),
        "memory_bytes": psutil.virtual_memory().total,
        "cores": os.cpu_count(),
    }


def describe_environment() -> dict[str, Any]:
    """Return what the bits of a result depend on, besides the code and the seed."""
    packages = _packages()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "accelerators": _accelerators(),
        "packages": {name: packages[name] for name in _NUMERIC_PACKAGES if name in packages},
    }


def environment_changes(recorded: Mapping[str, Any]) -> list[str]:
    """Return what differs between a run's recorded provenance and this machine, one line each.

    Anything in the list means that a resumed run may differ in its last bits.
    """
    before, now = _flat(recorded["environment"]), _flat(describe_environment())
    names = sorted(before.keys() | now.keys())
    return [
        f"{name}: {before.get(name, 'missing')} when the run began, {now.get(name, 'missing')} now"
        for name in names
        if before.get(name) != now.get(name)
    ]


def git_state(package: Path) -> dict[str, Any]:
    """Return commit and ``dirty`` where ``package`` is the ``src`` package of a git checkout, else two Nones."""
    top = _git(package, "rev-parse", "--show-toplevel")
    # A virtual environment inside somebody's own repository is not a checkout of ours.
    if top is None or Path(top).resolve() / "src" / package.name != package.resolve():
        return {"commit": None, "dirty": None}
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(package, "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    # GIT_DIR and its kin, as set inside hooks, would point to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


@cache
def _packages() -> Mapping[str, str]:
    found = {str(item.metadata["Name"]).lower(): item.version for item in metadata.distributions()}
    return dict(sorted(found.items()))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _accelerators() -> list[str]:
    """Return accelerator names from the operating system, so that nothing is initialised and torch is not imported."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ["Apple GPU"]
    names: list[str] = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = path.read_text().splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


def _flat(value: Mapping[str, Any]) -> dict[str, str]:
    flat = {name: str(item) for name, item in value.items() if name != "packages"}
    return {**flat, **value["packages"]}
