"""Put a learned controller to use: ``controller.start: FOLDER``, identified by what lies there."""

from pathlib import Path
from typing import Any

from chiasma.adapt.controls import in_use, without_place
from chiasma.adapt.learned import content_of, knowledge_for, load_knowledge
from chiasma.experiment.console import Console
from chiasma.train.controlling import ControllerSpec, LSTMController
from chiasma.train.design import Design

SIZES = ("hidden", "layers")


def pinned(tree: dict[str, Any]) -> dict[str, Any]:
    """Return settings whose controller is identified by its content, so that designs are by value.

    Args:
        tree: Settings as plain JSON, only what was said of the controller. Sizes that nobody chose are those that it
            was learned with; a hash that is there already is kept, and checked when the settings are.

    Raises:
        StorageError: No controller lies there.
        CorruptFileError: A file is not what was written.
    """
    controller = tree.get("controller")
    if not isinstance(controller, dict) or controller.get("kind") != "lstm" or controller.get("content"):
        return tree
    if not isinstance(controller.get("start"), str):
        return tree
    folder = Path(controller["start"])
    card = load_knowledge(folder).card
    learned = {name: getattr(card, name) for name in SIZES}
    return {**tree, "controller": {**learned, **controller, "content": content_of(folder)}}


def check_start(controller: ControllerSpec | None) -> None:
    """Refuse settings that the controller which they begin with does not fit, before there is anything to train.

    Raises:
        ConfigError: It is of another size, or another one than when the settings were made.
        StorageError: No controller lies there.
        CorruptFileError: A file is not what was written.
    """
    if isinstance(controller, LSTMController):
        knowledge_for(controller)


def check_controls(design: Design) -> None:
    """Refuse a controller that would set nothing.

    Raises:
        ConfigError: Names what its controls need.
    """
    controller = design.training.controller
    if isinstance(controller, LSTMController):
        in_use(controller, design.model, grows=design.training.growth is not None)


def say_idle_controls(design: Design, *, console: Console) -> None:
    """Say which of a controller's controls set nothing in a design, though others do."""
    controller = design.training.controller
    if not isinstance(controller, LSTMController):
        return
    line = without_place(controller, design.model, grows=design.training.growth is not None)
    if line is not None:
        console.say(line)
