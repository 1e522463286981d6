"""What this machine can do, tried rather than assumed, with a remedy for what it cannot."""

import importlib.metadata
import os
import platform
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from chiasma.core.errors import StorageError
from chiasma.core.files import file_system, refuse_network_drive, write_atomic

if TYPE_CHECKING:
    from chiasma.evaluate.jail import Jail

_GIB = 2**30
_WITHOUT_JAIL = (
    "Generated source is refused here unless you accept the lesser level; it needs Linux 5.13 or newer with Landlock "
    "on x86_64 or aarch64, and macOS has neither Landlock nor seccomp. Grammar designs need no jail."
)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        state: ``error`` where Chiasma cannot work, ``warning`` where something is slower or missing.
        found: What there is.
        remedy: What to do about it; empty where all is well.
    """

    name: str
    state: Literal["ok", "warning", "error"]
    found: str
    remedy: str = ""


def examine(runs: Path, cache: Path) -> list[Check]:
    """Return every check of this machine.

    Args:
        runs: Folder that holds runs; tried by writing to it, or to the nearest parent that exists.
        cache: Folder for prepared data.
    """
    checks: list[Callable[[], Check]] = [
        check_python,
        check_packages,
        check_device,
        check_cores,
        check_memory,
        check_shared_memory,
        check_sqlite,
        lambda: check_folder("runs folder", runs),
        lambda: check_folder("cache folder", cache),
        lambda: check_disk(runs),
        check_browser,
        check_ray,
        check_wandb,
        check_hydra,
    ]
    return [*(check() for check in checks), *check_jail()]


def check_python() -> Check:
    """Say which interpreter this is; an older one than 3.11 could not have imported this file."""
    found = (
        f"{platform.python_version()} ({platform.python_implementation()}, {platform.system()} {platform.machine()})"
    )
    return Check("python", "ok", found)


def check_packages() -> Check:
    """Check that every required package is installed in the range that was asked for."""
    wrong = [reason for line in importlib.metadata.requires("chiasma") or [] if (reason := unmet(line))]
    if wrong:
        return Check("packages", "error", "; ".join(wrong), "Run: pip install --upgrade chiasma")
    return Check("packages", "ok", f"chiasma {importlib.metadata.version('chiasma')}, torch {_version('torch')}")


def check_device() -> Check:
    """Check that torch computes, and on what."""
    import torch

    on = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    product = torch.ones(8, 8, device=on) @ torch.ones(8, 8, device=on)
    if float(product.sum()) != 512:
        return Check("device", "error", f"{on} computes {float(product.sum())} instead of 512", "Use --device cpu.")
    name = torch.cuda.get_device_name() if on == "cuda" else platform.processor() or platform.machine()
    return Check("device", "ok", f"{on} ({name})")


def check_cores() -> Check:
    """Check how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        return Check("cores", "warning", "1", "Use --workers 1: a second worker would only wait.")
    return Check("cores", "ok", str(cores))


def check_memory() -> Check:
    """Check the memory that is free now."""
    free = psutil.virtual_memory().available / _GIB
    if free < 2:
        return Check("memory", "warning", f"{free:.1f} GiB free", "Close other programs or use --workers 1.")
    return Check("memory", "ok", f"{free:.1f} GiB free")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Check the shared memory through which processes pass tensors."""
    if not folder.is_dir():
        return Check("shared memory", "ok", "not used on this system")
    free = shutil.disk_usage(folder).free / _GIB
    if free < 0.06:
        remedy = "Give the container more, such as docker run --shm-size 1g."
        return Check("shared memory", "warning", f"{free * 1024:.0f} MiB free in {folder}", remedy)
    return Check("shared memory", "ok", f"{free:.1f} GiB free in {folder}")


def check_sqlite() -> Check:
    """Check that SQLite keeps a write-ahead log here."""
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "try.db")
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        database.close()
    if mode != "wal" or sqlite3.sqlite_version_info < (3, 37):
        found = f"SQLite {sqlite3.sqlite_version}, journal {mode}"
        return Check("sqlite", "error", found, "Use a Python with SQLite 3.37 or newer and a local TMPDIR.")
    return Check("sqlite", "ok", f"SQLite {sqlite3.sqlite_version}, write-ahead log works")


def check_folder(name: str, folder: Path) -> Check:
    """Check that a folder is, or can be made, on a local disk that can be written to."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    trial = existing / f".chiasma-doctor-{os.getpid()}"
    try:
        refuse_network_drive(existing)
        write_atomic(trial, b"written")
    except StorageError as error:
        return Check(name, "error", str(error), "Choose another with --run-folder, CHIASMA_RUNS or CHIASMA_CACHE.")
    finally:
        trial.unlink(missing_ok=True)
    return Check(name, "ok", f"{folder} ({file_system(existing) or 'unknown file system'})")


def check_disk(folder: Path) -> Check:
    """Check the space where runs are written."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(existing).free / _GIB
    if free < 1:
        return Check("disk", "warning", f"{free:.2f} GiB free", "Free some space; a run needs up to 1 GiB.")
    return Check("disk", "ok", f"{free:.1f} GiB free")


def check_browser() -> Check:
    """Check for a browser that can draw a report without a screen."""
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        return Check("browser", "ok", "no Chromium (optional: only for the report's own tests)")
    return Check("browser", "ok", found)


def check_ray() -> Check:
    """Say whether trainings can be spread over a Ray cluster."""
    return _optional("ray", "ray", use="--set run.executor=ray", extra="ray")


def check_wandb() -> Check:
    """Say whether trainings can be shown in Weights & Biases."""
    return _optional("wandb", "wandb", use="--set tracking.wandb.enabled=true", extra="tracking")


def check_hydra() -> Check:
    """Say whether trainings can be started through Hydra."""
    return _optional("hydra", "hydra-core", use="python -m chiasma.hydra", extra="hydra")


def check_jail(jail: "Jail | None" = None) -> list[Check]:
    """Try each guarantee of the jail for generated code in a child of it, and say which hold.

    Args:
        jail: The one to try; None for one of its own.
    """
    # Late: it imports torch.
    from chiasma.core.errors import JailError
    from chiasma.evaluate.jail import GUARANTEES, Jail, landlock, seccomp

    layers = f"Landlock {landlock.version() or 'missing'}, seccomp {'known' if seccomp.is_known() else 'unknown'} here"
    try:
        with jail or Jail() as tried:
            level = tried.level
    except JailError as error:
        return [Check("jail", "warning", str(error), _WITHOUT_JAIL)]
    state = "ok" if level.is_full else "warning"
    found = [Check("jail", state, f"{level.words} ({layers})", "" if level.is_full else _WITHOUT_JAIL)]
    for name, promise in GUARANTEES.items():
        holds = level.holds.get(name, False)
        words = f"holds: {promise}" if holds else f"does not hold: {promise}"
        found.append(Check(f"jail: {name}", "ok" if holds else "warning", words, "" if holds else _WITHOUT_JAIL))
    return found


def unmet(requirement: str) -> str | None:
    """Return what is wrong with one requirement that is not an extra's, or None."""
    if "extra ==" in requirement:
        return None
    match = re.match(r"([A-Za-z0-9_.-]+)\s*(?:>=\s*([0-9.]+))?", requirement)
    assert match is not None, requirement
    name, least = match.groups()
    installed = _version(name)
    if installed is None:
        return f"{name} is missing"
    if least and _numbers(installed) < _numbers(least):
        return f"{name} {installed} is older than {least}"
    return None


def _optional(name: str, package: str, *, use: str, extra: str) -> Check:
    """Return what there is of a package that one feature alone needs."""
    version = _version(package)
    if version is None:
        return Check(name, "ok", f"not installed (optional: for {use}; pip install 'chiasma[{extra}]')")
    return Check(name, "ok", version)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])
