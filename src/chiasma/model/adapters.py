"""A model without low-rank adapters that answers as the one with them."""

from typing import TypeVar

from torch import nn

from chiasma.core.rng import kept_torch_generator
from chiasma.model.encoders.pretrained import Pretrained, PretrainedEncoder
from chiasma.model.multimodal import MultimodalModel

M = TypeVar("M", bound=nn.Module)


def with_adapters_merged(model: M) -> M | MultimodalModel:
    """Return a model whose adapters are added into the weights around them, where its spec wants that; else itself.

    A model that answers from the jail stays as it is. The backbones of the new model are as frozen as they were:
    whoever trains it on begins with what was learned, but trains only what is around them.
    """
    if not isinstance(model, MultimodalModel):
        return model
    specs = {
        name: spec for name, spec in model.spec.encoders.items() if isinstance(spec, Pretrained) and _to_merge(spec)
    }
    if not specs:
        return model
    plain = {name: spec.model_copy(update={"lora": None}) for name, spec in specs.items()}
    spec = model.spec.model_copy(update={"encoders": {**model.spec.encoders, **plain}})
    weights = dict(model.state_dict())
    for name in specs:
        encoder = model.encoders[name]
        assert isinstance(encoder, PretrainedEncoder)
        prefix = f"encoders.{name}."
        weights = {key: value for key, value in weights.items() if not key.startswith(prefix)}
        weights |= {f"{prefix}{key}": value for key, value in encoder.merged().items()}
    with kept_torch_generator():
        merged = spec.build(model.signature)
    merged.load_state_dict(weights, strict=True)
    return merged.to(next(model.parameters()).device).train(model.training)


def _to_merge(spec: Pretrained) -> bool:
    return spec.lora is not None and spec.lora.merge
