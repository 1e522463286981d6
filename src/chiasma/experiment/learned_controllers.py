"""Put a learned controller to use: ``controller.start: FOLDER``, identified by what lies there."""

from pathlib import Path
from typing import Any

from chiasma.adapt.learned import content_of


def pinned(tree: dict[str, Any]) -> dict[str, Any]:
    """Return settings whose controller is identified by its content, so that designs are by value.

    Args:
        tree: Settings as plain JSON; a hash that they have already is kept, and checked when the controller is read.

    Raises:
        StorageError: No controller lies there.
        CorruptFileError: A file is not what was written.
    """
    controller = tree.get("controller")
    if not isinstance(controller, dict) or not isinstance(controller.get("start"), str) or controller.get("content"):
        return tree
    return {**tree, "controller": {**controller, "content": content_of(Path(controller["start"]))}}
