"""Networks whose layers are told apart by how deep they lie: for rates by layer, and for gradual unfreezing."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import nn


class Layered(ABC):
    """A module with pretrained layers on top of each other."""

    @abstractmethod
    def depths(self) -> dict[str, int]:
        """Return how deep each learning parameter lies, by name: 1 in the last layer, most before the first.

        What is not in a layer, nor before the first, is left out: it is as shallow as what was never trained.
        """


def layered_in(model: nn.Module) -> Iterator[dict[str, int]]:
    """Yield, for each such module of a model, the depths of its parameters by their names in the model."""
    for path, module in model.named_modules():
        if isinstance(module, Layered):
            depths = {f"{path}.{name}" if path else name: depth for name, depth in module.depths().items()}
            if depths:
                yield depths


def parameter_depths(network: nn.Module, layers: tuple[str, int], *, prefix: str) -> dict[str, int]:
    """Return the depths of a network's learning parameters.

    Args:
        network: Whose parameters.
        layers: Name of its list of layers, and how many there are.
        prefix: What their names begin with in the whole module.
    """
    name, count = layers
    found: dict[str, int] = {}
    begun = False
    for path, parameter in network.named_parameters():
        inside = path.startswith(f"{name}.")
        begun = begun or inside
        if inside:
            depth = count - int(path[len(name) + 1 :].partition(".")[0])
        elif begun:
            continue
        else:
            depth = count + 1
        if parameter.requires_grad:
            found[f"{prefix}.{path}"] = depth
    return found
