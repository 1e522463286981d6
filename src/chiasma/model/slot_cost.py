"""What a model costs with another attention in one place, without building the rest of it again."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from chiasma.core.rng import kept_torch_generator
from chiasma.data.batch import Tokens
from chiasma.data.signature import Signature
from chiasma.model.attention import AttentionPlugin, AttentionSettings, MultiHeadAttention
from chiasma.model.cost import Cost, example_batch, parameters
from chiasma.model.flops import FlopCount, count_flops
from chiasma.model.multimodal import ModelSpec


@dataclass(frozen=True)
class _Call:
    """One attention that was called, with what it saw."""

    module: MultiHeadAttention
    queries: Tokens
    keys: Tokens


class SlotCosts:
    """Costs of models that differ in one attention: only the layers of its slot are counted for each.

    Args:
        spec: The model around the slot.
        slot: Encoder or fusion whose blocks attend, as a path below the model: ``encoders.image``, ``fusion``.
        signature: What the dataset looks like.
    """

    def __init__(self, spec: ModelSpec, slot: str, signature: Signature) -> None:
        with kept_torch_generator():
            model = spec.build(signature).eval()
        self._calls, count = _calls(model, model.get_submodule(slot), signature)
        here = [_of(call, call.module) for call in self._calls]
        self._rest = Cost(
            parameters=parameters(model) - sum(each.parameters for each in here),
            flops=count.total - sum(each.flops for each in here),
            uncounted=count.uncounted,
        )

    def __call__(self, attention: AttentionSettings | AttentionPlugin) -> Cost:
        """Return what the model costs with this attention in the slot, as :func:`cost` would count it."""
        counted: dict[tuple[Any, ...], Cost] = {}
        found = list[Cost]()
        with kept_torch_generator():
            for call in self._calls:
                key = (call.module.heads, call.queries.x.shape, call.keys.x.shape, call.queries is call.keys)
                if key not in counted:
                    dim = call.queries.x.shape[-1]
                    counted[key] = _of(call, MultiHeadAttention(dim, heads=call.module.heads, attention=attention))
                found.append(counted[key])
        names = {name for each in found for name in each.uncounted}
        return Cost(
            parameters=self._rest.parameters + sum(each.parameters for each in found),
            flops=self._rest.flops + sum(each.flops for each in found),
            uncounted=tuple(sorted({*self._rest.uncounted, *names})),
        )


def _of(call: _Call, module: MultiHeadAttention) -> Cost:
    count = count_flops(module.eval(), call.queries, call.keys)
    return Cost(parameters=parameters(module), flops=count.total, uncounted=count.uncounted)


def _calls(model: nn.Module, part: nn.Module, signature: Signature) -> tuple[list[_Call], FlopCount]:
    """Return every call of an attention inside a part while the model sees one example, and what all of it cost."""
    found: list[_Call] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, MultiHeadAttention)
        found.append(_Call(module, inputs[0], inputs[1]))

    inside = [module for module in part.modules() if isinstance(module, MultiHeadAttention)]
    hooks = [module.register_forward_pre_hook(note) for module in inside]
    count = count_flops(model, example_batch(signature, 1))
    for hook in hooks:
        hook.remove()
    return found, count
