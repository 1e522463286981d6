"""Chiasma evolves image+text classifiers, and proves what the evolution gained."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiasma.api import Classifier
    from chiasma.train.design import Design
    from chiasma.train.trainer import Trainer

__version__ = "0.1.0"
__all__ = ["Classifier", "Design", "Trainer", "__version__"]

_HOMES = {"Classifier": "chiasma.api", "Design": "chiasma.train.design", "Trainer": "chiasma.train.trainer"}


def __getattr__(name: str) -> Any:
    """Import the heavy names only when they are first used, so that ``import chiasma`` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'chiasma' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
