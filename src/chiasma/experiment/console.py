"""What long work says while it runs, and how it learns that it should stop."""

from collections.abc import Callable
from typing import Protocol


class Console(Protocol):
    """Where progress goes. The command line draws it, a library caller may ignore it."""

    def say(self, text: str) -> None:
        """Show one line that stays."""
        ...

    def status(self, text: str) -> None:
        """Replace the line that says what is happening now."""
        ...

    @property
    def interrupted(self) -> bool:
        """Return True once the user asked to stop (Ctrl-C): finish with the best so far, start nothing new."""
        ...


def stoppable(console: Console) -> Callable[[str], None]:
    """Return a progress line for work that has nothing to save: once the user asked to stop, it ends there.

    The line raises KeyboardInterrupt then.
    """

    def tell(text: str) -> None:
        console.status(text)
        if console.interrupted:
            raise KeyboardInterrupt

    return tell


class SilentConsole:
    """Shows nothing and is never interrupted."""

    interrupted = False

    def say(self, text: str) -> None:
        """Drop the line."""

    def status(self, text: str) -> None:
        """Drop the line."""
