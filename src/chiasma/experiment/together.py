"""The processes that train one model together, as one of them sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chiasma.experiment.console import Console
from chiasma.train.ranks import Ranks, joined_ranks


@dataclass(frozen=True)
class Group:
    """One process among those that train together.

    Attributes:
        ranks: Its place among them.
        device: Its own.
        console: Where it says what happens.
    """

    ranks: Ranks
    device: str
    console: Console

    @property
    def words(self) -> str:
        """Return how many there are, where there are several."""
        return "" if self.ranks.alone else f", {self.ranks.size} processes together"


class Quiet:
    """The console of a process that does not lead: nothing is shown, Ctrl-C is heard.

    Args:
        heard: Who knows of Ctrl-C.
    """

    def __init__(self, heard: Console) -> None:
        self._heard = heard

    def say(self, text: str) -> None:
        """Drop the line."""

    def status(self, text: str) -> None:
        """Drop the line."""

    @property
    def interrupted(self) -> bool:
        """Return whether the user asked to stop."""
        return self._heard.interrupted


@contextmanager
def joined(device: str, console: Console) -> Iterator[Group]:
    """Find the processes that ``torchrun`` started with this one; without it, this one is alone.

    Args:
        device: What the settings say.
        console: Of the process that leads.

    Raises:
        ConfigError: There are fewer GPUs than processes.
    """
    with joined_ranks(device) as (ranks, own):
        yield Group(ranks, own, console if ranks.leads else Quiet(console))
