"""Hostile and honest sources: our own beside the tests, and those of the folder beside ``CHIASMA_TEST_DATA``."""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OWN = Path(__file__).parents[1] / "assets" / "security"


@dataclass(frozen=True)
class Case:
    """One source, and what must become of it: ``reject`` by the screen, ``contain`` in the jail, or ``accept``."""

    name: str
    expect: str
    signal: str
    data: bytes

    @property
    def text(self) -> str:
        """Return it as a model would get it without a screen, which decodes strictly."""
        return self.data.decode(errors="replace")


def shared_folder() -> Path | None:
    """Return the folder of further cases, or None where there is none."""
    root = os.environ.get("CHIASMA_TEST_DATA")
    folder = None if root is None else Path(root).parent / "security" / "escapes"
    return folder if folder is not None and folder.is_dir() else None


@cache
def cases() -> tuple[Case, ...]:
    """Return all that there are on this machine."""
    folders = [folder for folder in (OWN, shared_folder()) if folder is not None]
    return tuple(_case(path) for folder in folders for path in sorted(folder.glob("*.py")))


def expecting(*expected: str) -> list[Case]:
    """Return the cases with one of some expectations."""
    return [case for case in cases() if case.expect in expected]


def _case(path: Path) -> Case:
    data = path.read_bytes()
    head = "\n".join(data.decode(errors="replace").splitlines()[:7])
    found = {key: re.search(rf"^# {key}: (\S+)", head, re.MULTILINE) for key in ("expect", "signal")}
    named = {key: match[1] for key, match in found.items() if match}
    return Case(path.stem, named["expect"], named.get("signal", ""), data)
