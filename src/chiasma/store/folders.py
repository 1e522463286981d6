"""Where runs, prepared data and the ledger of test openings lie, and how a run is found by name."""

import os
import re
from pathlib import Path

from chiasma.core.errors import ConfigError
from chiasma.core.spec import suggestion

_RUN_ID = re.compile(r"[a-z][a-z0-9-]*-(\d{8}-\d{6})-[0-9a-f]+")


def runs_root() -> Path:
    """Return the folder that holds the runs: ``$CHIASMA_RUNS``, or ``runs`` in the working directory."""
    return Path(os.environ.get("CHIASMA_RUNS") or "runs")


def cache_folder() -> Path:
    """Return where prepared data may be kept and deleted: ``$CHIASMA_CACHE`` or ``~/.cache/chiasma``."""
    return Path(os.environ.get("CHIASMA_CACHE") or Path.home() / ".cache" / "chiasma")


def ledger_folder() -> Path:
    """Return where test openings are counted across runs: ``$CHIASMA_STATE`` or ``~/.local/state/chiasma``.

    Apart from the cache, because deleting it would make an opened test split look sealed.
    """
    return Path(os.environ.get("CHIASMA_STATE") or Path.home() / ".local" / "state" / "chiasma")


def list_runs(root: Path | None = None) -> list[Path]:
    """Return the run folders below ``root``, oldest first."""
    folder = runs_root() if root is None else root
    if not folder.is_dir():
        return []
    runs = [path for path in folder.iterdir() if not path.name.startswith(".") and (path / "run.db").is_file()]
    return sorted(runs, key=_age)


def find_run(reference: str, root: Path | None = None) -> Path:
    """Return the run folder that ``reference`` means.

    Args:
        reference: A path, an id, the beginning of exactly one id, or ``latest``.
        root: Where runs lie; the usual place when None.

    Raises:
        ConfigError: No run, or more than one, is meant; the nearest ids are named.
    """
    folder = runs_root() if root is None else root
    if (Path(reference) / "run.db").is_file():
        return Path(reference)
    runs = list_runs(folder)
    if not runs:
        raise ConfigError(f"run {reference!r} was not found: there are no runs in {folder.absolute()}.")
    if reference == "latest":
        return runs[-1]
    names = [path.name for path in runs]
    if reference in names:
        return folder / reference
    begun = [path for path in runs if reference and path.name.startswith(reference)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise ConfigError(
            f"run {reference!r} is the beginning of {len(begun)} ids: {', '.join(path.name for path in begun[-5:])}."
        )
    raise ConfigError(
        f"run {reference!r} was not found in {folder.absolute()}.{suggestion(reference, names)} "
        f"The newest: {names[-1]}."
    )


def _age(path: Path) -> tuple[str, int, str]:
    """Order by the time in the id; within one second by when the folder was made."""
    named = _RUN_ID.fullmatch(path.name)
    made = next((file for file in (path / "provenance.json", path / "run.db") if file.exists()), path)
    return (named[1] if named else "", made.stat().st_mtime_ns, path.name)
