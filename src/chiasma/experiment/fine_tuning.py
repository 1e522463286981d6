"""Settings of fine-tuning that would change nothing are refused before anything is trained."""

import torch

from chiasma.core.errors import ConfigError
from chiasma.data.signature import Signature
from chiasma.model.encoders.layered import layered_in
from chiasma.train.design import Design


def check_layers_learn(design: Design, signature: Signature) -> None:
    """Refuse rules for the layers of pretrained encoders where no such layer learns.

    Raises:
        ConfigError: Names the setting.
    """
    training = design.training
    named = {
        f"optim.layer_decay={training.optim.layer_decay:g}": training.optim.layer_decay < 1,
        "train.unfreeze": training.loop.unfreeze is not None,
    }
    asked = [name for name, is_set in named.items() if is_set]
    if not asked:
        return
    with torch.device("meta"):
        model = design.model.build(signature)
    if not any(layered_in(model)):
        raise ConfigError(
            f"{' and '.join(asked)}: the rules are for layers of pretrained encoders that learn, but the model has "
            "none: model.encoders.text.kind=pretrained with freeze=none, freeze=last_n or lora."
        )
