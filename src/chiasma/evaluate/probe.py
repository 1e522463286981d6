"""Look at an untrained model for a few milliseconds before a second is spent on training it."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from chiasma.core.outcome import Rejected
from chiasma.core.rng import derive_seed
from chiasma.data.batch import Batch, TokenBatch, Tokens
from chiasma.data.signature import Signature
from chiasma.model.cost import example_batch, parameters
from chiasma.model.multimodal import MultimodalModel

ROWS = 3
TOLERANCE = 1e-3
NUDGE = 0.02


def probe(model: MultimodalModel, signature: Signature, *, max_parameters: int | None = None) -> Rejected | None:
    """Return why a model is not worth training, or None.

    Checked on random inputs, in evaluation mode: shape and finiteness of the output; a gradient to every modality;
    that absent parts and masked tokens change nothing, and rows without anything stay finite; that a row's output does
    not depend on its neighbours. A copy is examined, with slightly moved weights, so that paths which start at zero
    count as open; the model and torch's generators are left as they are.

    Args:
        model: Not yet trained, on the CPU.
        signature: What its inputs look like.
        max_parameters: Most numbers it may learn; None for no limit.
    """
    count = parameters(model)
    if max_parameters is not None and count > max_parameters:
        reason = f"the model has {count:,} parameters, but the limit is {max_parameters:,}"
        return Rejected(stage="probe", reason=reason)
    examined = _nudged(copy.deepcopy(model).eval())
    for fault in _faults(examined, signature):
        return Rejected(stage="probe", reason=fault)
    return None


def _faults(model: MultimodalModel, signature: Signature) -> Iterator[str]:
    """Yield what is wrong, cheapest check first; later checks assume that earlier ones passed."""
    batch = example_batch(signature, ROWS)
    with torch.no_grad():
        logits = model(batch).logits
    expected = (ROWS, signature.target.outputs)
    if tuple(logits.shape) != expected:
        yield f"the output must have shape {list(expected)}, but has {list(logits.shape)}"
        return
    if not bool(torch.isfinite(logits).all()):
        yield "the output of the untrained model holds a NaN or an infinity"
        return
    yield from _unreached(model, signature, batch)
    with torch.no_grad():
        if _differ(model(_first_row(batch)).logits, logits[:1]):
            yield "the output of a row depends on the other rows of its batch"
            return
        yield from _disobedience(model, batch)


def _unreached(model: MultimodalModel, signature: Signature, batch: Batch) -> Iterator[str]:
    """Yield the modalities that no gradient reaches: their inputs, or for texts the weights of their encoder."""
    leaves = {name: _leaf(value) for name, value in batch.inputs.items()}
    watched = Batch(
        {name: _with_leaf(batch.inputs[name], leaf) for name, leaf in leaves.items()}, batch.present, batch.ids
    )
    logits = model(watched).logits
    # A fixed projection: a plain sum can have no gradient where the outputs are normalised.
    (logits * _noise(logits, "projection")).sum().backward()
    for name in model.encoders or signature.inputs:
        leaf = leaves[name]
        if leaf is not None:
            gradients = [leaf.grad]
        elif name in model.encoders:
            gradients = [parameter.grad for parameter in model.encoders[name].parameters()]
        else:
            continue
        sums = [float(gradient.abs().sum()) for gradient in gradients if gradient is not None]
        if not any(size > 0 for size in sums):
            yield f"no gradient reaches the {name}"
        elif not all(map(math.isfinite, sums)):
            yield f"the gradient to the {name} holds a NaN or an infinity"
    model.zero_grad(set_to_none=True)


def _disobedience(model: MultimodalModel, batch: Batch) -> Iterator[str]:
    """Yield what depends on absent parts or masked tokens."""
    for name in model.encoders or batch.inputs:
        absent = {**batch.present, name: torch.arange(ROWS) != 0}
        other = {**batch.inputs, name: _with_another_first_row(batch.inputs[name])}
        seen, again = (model(Batch(inputs, absent, batch.ids)).logits for inputs in (batch.inputs, other))
        if not bool(torch.isfinite(seen).all()):
            yield f"the output of a row without its {name} holds a NaN or an infinity"
        if _differ(seen, again):
            yield f"an absent {name} changes the output"
    nothing = dict.fromkeys(batch.present, torch.zeros(ROWS, dtype=torch.bool))
    if not bool(torch.isfinite(model(Batch(batch.inputs, nothing, batch.ids)).logits).all()):
        yield "the output of a row without any part holds a NaN or an infinity"
    if not model.encoders:
        return
    tokens = model.encode(batch).tokens
    masked = {name: replace(value, mask=value.mask & _alternating(value.mask)) for name, value in tokens.items()}
    noisy = {name: _with_noise_where_masked(value) for name, value in masked.items()}
    if _differ(model(TokenBatch(masked, batch.ids)).logits, model(TokenBatch(noisy, batch.ids)).logits):
        yield "a masked token changes the output"


def _nudged(model: MultimodalModel) -> MultimodalModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(_noise(parameter, name), alpha=NUDGE)
    return model


def _noise(like: Tensor, purpose: str) -> Tensor:
    """Return standard normal numbers that depend on ``purpose`` alone."""
    generator = torch.Generator().manual_seed(derive_seed(0, "probe", purpose))
    return torch.randn(like.shape, generator=generator).to(like)


def _leaf(value: Tensor | Tokens) -> Tensor | None:
    """Return a copy of the floating-point input that collects a gradient; None for token ids."""
    x = value.x if isinstance(value, Tokens) else value
    return x.detach().clone().requires_grad_() if x.is_floating_point() else None


def _with_leaf(value: Tensor | Tokens, leaf: Tensor | None) -> Tensor | Tokens:
    if leaf is None:
        return value
    return replace(value, x=leaf) if isinstance(value, Tokens) else leaf


def _with_another_first_row(value: Tensor | Tokens) -> Tensor | Tokens:
    if isinstance(value, Tokens):
        return replace(value, x=torch.cat([value.x[1:2], value.x[1:]]))
    return torch.cat([value[1:2], value[1:]])


def _alternating(mask: Tensor) -> Tensor:
    """Return every second token, and none in the last row."""
    chosen = (torch.arange(mask.shape[1]) % 2 == 0).expand_as(mask).clone()
    chosen[-1] = False
    return chosen


def _with_noise_where_masked(value: Tokens) -> Tokens:
    return replace(value, x=torch.where(value.mask[..., None], value.x, 10 * _noise(value.x, "masked")))


def _first_row(batch: Batch) -> Batch:
    inputs = {name: _rows(value, 1) for name, value in batch.inputs.items()}
    return Batch(inputs, {name: mask[:1] for name, mask in batch.present.items()}, batch.ids[:1])


def _rows(value: Tensor | Tokens, count: int) -> Tensor | Tokens:
    if isinstance(value, Tokens):
        boxes = None if value.boxes is None else value.boxes[:count]
        return Tokens(value.x[:count], value.mask[:count], boxes)
    return value[:count]


def _differ(first: Tensor, second: Tensor) -> bool:
    return not torch.allclose(first, second, rtol=TOLERANCE, atol=TOLERANCE)
