"""What a search with a front looks for: one part of a design, what it is compared with, and who proposes it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from chiasma.experiment.front import Described
from chiasma.experiment.setting import Setting
from chiasma.search.protocols import Proposer
from chiasma.train.design import Design


class SearchedPart(ABC):
    """One place of a design.

    Attributes:
        path: Its dotted path, such as ``model.fusion``.
        standard: Name of the baseline that every gain is measured against.
        matters: The standard and another baseline, whose difference says whether the part matters at all on the data;
            None where no pair says that.
    """

    path: str
    standard: str
    matters: tuple[str, str] | None = None

    @abstractmethod
    def baselines(self, base: Design) -> Mapping[str, tuple[Design, str]]:
        """Return what every candidate is measured by: by name a design and a description, the standard among them."""

    @abstractmethod
    def proposers(self, setting: Setting, base: Design) -> dict[str, Proposer[Any]]:
        """Return everybody who can propose candidates, by the names that settings choose from."""

    @abstractmethod
    def describe(self, design: Design) -> Described:
        """Return how a design's part reads."""

    @abstractmethod
    def proposing(self) -> Mapping[str, Any]:
        """Return how the proposers did, as JSON for the report; empty where there is nothing but their candidates."""

    @abstractmethod
    def progress(self) -> str:
        """Return how the proposers do, for the line after each generation; empty where there is nothing to say."""

    @abstractmethod
    def around(self, base: Design) -> str:
        """Return the setting without which the part could not be named; empty where there is none."""
