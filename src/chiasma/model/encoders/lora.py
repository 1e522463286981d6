"""Low-rank adapters inside a pretrained backbone, from the peft library."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec

INSTALL = "pip install 'chiasma[lora]'"


class Lora(Spec):
    """Adapters of Hu et al. 2021 (https://arxiv.org/abs/2106.09685) that learn in place of the backbone.

    Attributes:
        rank: Of each adapter.
        alpha: What an adapter adds is scaled by ``alpha / rank``.
        dropout: Probability of zeroing a feature before an adapter, while it learns.
        targets: Last parts of the names of the linear maps that get one, such as ``query`` and ``value``; empty for all
            in the layers.
        merge: The saved model has the adapters added into its weights: it is smaller, as fast as without, and needs no
            peft.
    """

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()
    merge: bool = False


def adapt(backbone: nn.Module, lora: Lora, *, layers: str, name: str) -> tuple[str, ...]:
    """Put adapters into a backbone, so that only these learn, and return the names of what has dropout of theirs.

    Fresh adapters come from torch's global generator; they change nothing until they have learned.

    Args:
        backbone: Is changed in place.
        lora: Which adapters.
        layers: Name of its list of layers.
        name: Of the model, for messages.

    Raises:
        ConfigError: peft is not installed, or there is no linear map of such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError(f"Low-rank adapters in {name} need peft: {INSTALL}.") from None
    linear = [
        path
        for path, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and path.startswith(f"{layers}.")
    ]
    chosen = [path for path in linear if not lora.targets or path.rpartition(".")[2] in lora.targets]
    known = sorted({path.rpartition(".")[2] for path in linear})
    missing = [target for target in lora.targets if target not in known]
    if missing or not chosen:
        raise ConfigError(
            f"lora.targets: the layers of {name} have no linear map called {', '.join(missing) or 'anything'}; "
            f"they have: {', '.join(known) or 'none'}."
        )
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=chosen)  # pyright: ignore[reportArgumentType]
    inject_adapter_in_model(settings, backbone)
    return tuple(path for path, _ in backbone.named_modules() if path.rpartition(".")[2] == "lora_dropout")


def without_adapters(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for each weight that is not an adapter's, its name in the backbone before there were any."""
    return {name: name.replace(".base_layer.", ".") for name in weights if ".lora_" not in name}


def merged_weights(backbone: Any) -> dict[str, Tensor]:
    """Return the weights of a backbone with its adapters added into them, by the names without adapters."""
    from peft.tuners.lora import LoraLayer

    weights = dict(backbone.state_dict())
    found = {plain: weights[name] for name, plain in without_adapters(weights).items()}
    for path, module in backbone.named_modules():
        if isinstance(module, LoraLayer):
            adapter: Any = module
            found[f"{path}.weight"] = found[f"{path}.weight"] + adapter.get_delta_weight("default").detach()
    return found
