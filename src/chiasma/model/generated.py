"""Source that somebody or something else wrote: who may run it in this process, and how it becomes a class.

Nothing here makes it safe. It is run in the jail, whose children approve the one source that they were made for, or by
a user who has read it and approved its hash.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, cast

from torch import nn

from chiasma.core.errors import UntrustedSourceError
from chiasma.core.spec import Spec
from chiasma.store.trust import is_trusted

CLASS = "FusionModule"
PREFIX = "chiasma_generated_"
MOST_PARAMETERS = 2_000_000
"""Of a module that is 64 wide."""

_approved: set[str] = set()


class GeneratedSource(Spec):
    """A part of a model that is source code; inherited by the specs of such parts.

    Attributes:
        source: Python that defines the class.
    """

    source: str

    @property
    def sha256(self) -> str:
        """Return the hash by which the source is known and approved."""
        return source_sha256(self.source)


class GeneratedFaultError(ValueError):
    """A generated module does not keep its contract; its own fault."""


def source_sha256(source: str) -> str:
    """Return the hash by which a source is known and approved."""
    return hashlib.sha256(source.encode()).hexdigest()


def approve_in_this_process(sha256: str) -> None:
    """Let this process run a source: for children of the jail, which can do nothing with it, and for tests."""
    _approved.add(sha256)


def withdraw_approval(sha256: str) -> None:
    """Undo :func:`approve_in_this_process`."""
    _approved.discard(sha256)


def is_approved(sha256: str) -> bool:
    """Return whether this process may run a source: it said so itself, or the user has approved it."""
    return sha256 in _approved or is_trusted(sha256)


def generated_in(spec: Any) -> Iterator[GeneratedSource]:
    """Yield every part of a spec that is source code."""
    if isinstance(spec, GeneratedSource):
        yield spec
    if isinstance(spec, Spec):
        for name in type(spec).model_fields:
            yield from generated_in(getattr(spec, name))
    elif isinstance(spec, Mapping):
        for item in cast("Mapping[str, Any]", spec).values():
            yield from generated_in(item)


def unapproved_in(spec: Spec) -> list[GeneratedSource]:
    """Return the parts of a spec that are source code which this process may not run."""
    return [part for part in generated_in(spec) if not is_approved(part.sha256)]


def module_name(sha256: str) -> str:
    """Return the name under which the code of a source runs, and by which its errors are told from ours."""
    return PREFIX + sha256[:16]


def class_of(source: str) -> type[nn.Module]:
    """Run an approved source and return its class.

    Raises:
        UntrustedSourceError: Nobody has approved it.
        GeneratedFaultError: It defines no such class.
    """
    sha256 = source_sha256(source)
    if not is_approved(sha256):
        raise UntrustedSourceError(
            f"The generated source {sha256} is not approved, and is run in the jail only. "
            f"Read it; if it is harmless: --trust {sha256}"
        )
    # A real module, because dataclasses look their annotations up in the one that a class names.
    module = ModuleType(module_name(sha256))
    sys.modules[module.__name__] = module
    exec(compile(source, f"<{module.__name__}>", "exec", dont_inherit=True), module.__dict__)
    found: Any = module.__dict__.get(CLASS)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise GeneratedFaultError(f"the source must define the class {CLASS}, a torch.nn.Module, but has {found!r:.80}")
    return found
