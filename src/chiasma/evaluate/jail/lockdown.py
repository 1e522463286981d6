"""All layers of the wall, in the one order that works. Each can be left out, so that each can be tried alone."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from chiasma.evaluate.jail import descriptors, identity, landlock, limits, seccomp
from chiasma.evaluate.jail.limits import Limits


@dataclass(frozen=True)
class Layers:
    """Which layers stand.

    Attributes:
        descriptors: Nothing that was open stays open.
        identity: Root becomes nobody.
        limits: Time, memory, files and processes are limited.
        landlock: Files and TCP are denied.
        seccomp: System calls beyond a list are refused.
        parent_death: The process dies with its parent.
    """

    descriptors: bool = True
    identity: bool = True
    limits: bool = True
    landlock: bool = True
    seccomp: bool = True
    parent_death: bool = True

    @classmethod
    def only(cls, *names: str) -> "Layers":
        """Return a wall of some layers alone."""
        return cls(**{field.name: field.name in names for field in fields(cls)})


fallen: dict[str, str] = {}
"""Why layers do not stand in this process, by their names; of the process that locked itself down."""


def lock_down(layers: Layers, allowed: Limits, *, parent: int) -> Mapping[str, str]:
    """Give up for good what this process does not need; return why a layer does not stand, by its name.

    Descriptors first, while their number can be read. The uid before the limits, because root is not held to the
    number of processes. Landlock before there may be no further file, because its rules are one. The signal of the
    parent's death after the uid, whose change clears it, and before seccomp, which refuses to set it.
    """
    steps = (
        ("descriptors", descriptors.close_all),
        ("identity", identity.drop_privileges),
        ("limits", lambda: limits.restrict(allowed)),
        ("parent_death", lambda: identity.die_with(parent)),
        ("landlock", landlock.restrict),
        ("limits", lambda: limits.open_nothing_more(descriptors.STANDARD)),
        ("seccomp", seccomp.restrict),
    )
    for name, step in steps:
        if not getattr(layers, name):
            fallen[name] = "switched off"
            continue
        try:
            step()
        except (OSError, ValueError) as error:
            fallen[name] = str(error)
    return dict(fallen)
