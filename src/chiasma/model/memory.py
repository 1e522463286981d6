"""How much memory a pass through a model takes, found without taking it: the tensors have shapes and no contents."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chiasma.core.errors import ChiasmaError
from chiasma.data.batch import Batch, Tokens
from chiasma.data.signature import ImageInput, InputSpec, Signature, TextInput
from chiasma.model.cost import example_targets
from chiasma.model.multimodal import ModelSpec, MultimodalModel
from chiasma.model.recompute import recompute_activations


class UntraceableError(ChiasmaError):
    """What a model takes cannot be told from shapes alone: a part of it decides by the values that it sees."""


BETWEEN = "between the parts"
"""To whom belongs what no part of a model made."""


@dataclass(frozen=True)
class PassMemory:
    """What a pass of a model over some rows takes, in bytes.

    Attributes:
        parameters: How many numbers are learned.
        weights: Parameters and buffers.
        learned: Those parameters that learn; their gradients take as much.
        buffers: What changes without being learned, such as means over batches.
        inputs: The rows themselves.
        stored: What the forward pass leaves behind for the backward pass, by part of the model.
        most: The most that is alive at one moment beside weights, inputs and gradients of earlier rows.
        gradients: The part of ``most`` that is gradients of weights.
    """

    parameters: int
    weights: int
    learned: int
    buffers: int
    inputs: int
    stored: Mapping[str, int]
    most: int
    gradients: int


def pass_memory(
    spec: ModelSpec,
    signature: Signature,
    *,
    rows: int,
    learning: bool = True,
    accumulating: bool = False,
    recompute: bool = False,
    precision: torch.dtype = torch.float32,
    device: str = "cpu",
) -> PassMemory:
    """Return what one pass takes: every operation of it is dispatched as in earnest, but nothing is computed.

    So whatever is in the model is followed, other people's parts too, with what the device's own kernels keep. Texts
    have their full length. Memory that a kernel takes and gives back inside is not seen.

    Args:
        spec: The architecture.
        signature: What the dataset looks like.
        rows: Examples that pass at a time.
        learning: Forward and backward; else forward alone, without gradients.
        accumulating: The gradients of earlier rows are held meanwhile.
        recompute: Blocks are computed again in the backward pass.
        precision: Of matrix products.
        device: ``cpu`` or ``cuda``: what is fused and what is kept differs.

    Raises:
        ConfigError: The architecture does not fit the dataset.
        UntraceableError: A part of the model needs to see contents.
    """
    spec.check(signature)
    alive = _Alive()
    with _shapes_only(), torch.device(device):
        model = _without_contents(spec, signature).train(learning)
        recompute_activations(model, recompute)
        batch = _batch(signature, model.encoders.keys() or signature.inputs.keys(), rows)
        targets = example_targets(signature, rows)
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        weights = [*model.parameters(), *model.buffers()]
        inputs = [leaf for value in batch.inputs.values() for leaf in _leaves(value)]
        alive.leave_out([*weights, *inputs, *batch.present.values()])
        stored: Mapping[str, int] = {}
        with _named(model, alive):
            if learning:
                stored = _learn(model, batch, targets, alive, learned, precision=precision, held=accumulating)
            else:
                with torch.no_grad(), alive, _autocast(device, precision):
                    model(batch, targets)
        return PassMemory(
            parameters=sum(parameter.numel() for parameter in learned),
            weights=_bytes(weights),
            learned=_bytes(learned),
            buffers=_bytes(list(model.buffers())),
            inputs=_bytes(inputs),
            stored=stored,
            most=alive.most,
            gradients=alive.gradients_then,
        )


def at_the_very_most(spec: ModelSpec, signature: Signature, *, rows: int) -> int:
    """Return a number of bytes that learning from so many rows stays far below, found at once: for small models.

    Every weight, of which a layer of width D has D for each feature that it makes, is taken to keep eight numbers of
    every pixel and every word.
    """
    numbers = sum(parameter.numel() for parameter in _on_meta(spec, signature).parameters())
    places = sum(_places(input) for input in signature.inputs.values())
    return 4 * numbers * (8 + 8 * rows * places // spec.dim)


@contextmanager
def _shapes_only() -> Iterator[None]:
    """Make tensors without contents; tensors that were there before join in as such."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UntraceableError(
            f"a part of the model needs to see contents ({type(error).__name__}: {reason})"
        ) from error


def _without_contents(spec: ModelSpec, signature: Signature) -> MultimodalModel:
    """Return a model whose weights have shapes only, on the device of the context."""
    model = _on_meta(spec, signature)
    same: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fresh = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad)
            setattr(module, name, same.setdefault(id(parameter), fresh))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return model


def _on_meta(spec: ModelSpec, signature: Signature) -> MultimodalModel:
    # Elsewhere some initialisations look at the values that they draw.
    try:
        with torch.device("meta"):
            return spec.build(signature)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        # What can be built can be built here too, but for a part of somebody else's that needs to see contents.
        reason = str(error).partition("\n")[0]
        raise UntraceableError(f"a part cannot be built without contents ({type(error).__name__}: {reason})") from error


def _learn(
    model: MultimodalModel,
    batch: Batch,
    targets: torch.Tensor | None,
    alive: "_Alive",
    learned: list[nn.Parameter],
    *,
    precision: torch.dtype,
    held: bool,
) -> dict[str, int]:
    """Pass forward and backward; return what the forward pass leaves behind."""
    for parameter in learned:
        if held:
            parameter.grad = torch.zeros_like(parameter)
            alive.leave_out([parameter.grad])
        else:
            parameter.register_post_accumulate_grad_hook(alive.note_gradient)
    device = learned[0].device.type
    with alive:
        with _autocast(device, precision):
            output = model(batch, targets)
        loss = output.logits.sum() if output.penalty is None else output.logits.sum() + output.penalty
        stored = alive.by_owner()
        loss.backward()
    return stored


@contextmanager
def _named(model: MultimodalModel, alive: "_Alive") -> Iterator[None]:
    """Have what is made inside a part of the model belong to that part."""
    parts: dict[str, nn.Module | None] = {**dict(model.encoders.items()), "fusion": model.fusion, "trunk": model.trunk}
    parts |= {"head": model.head, "whole": model.whole}

    def enter(name: str, *_: Any) -> None:
        alive.owner = name

    def leave(*_: Any) -> None:
        alive.owner = BETWEEN

    present = {name: part for name, part in parts.items() if part is not None}
    hooks = [part.register_forward_pre_hook(partial(enter, name)) for name, part in present.items()]
    hooks += [part.register_forward_hook(leave) for part in present.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _batch(signature: Signature, names: Iterable[str], rows: int) -> Batch:
    chosen = {name: _rows(signature.inputs[name], rows) for name in names}
    present = {name: torch.ones(rows, dtype=torch.bool) for name in chosen}
    return Batch(chosen, present, tuple(str(row) for row in range(rows)))


def _rows(input: InputSpec, rows: int) -> Tensor | Tokens:
    if isinstance(input, ImageInput):
        return torch.zeros(rows, input.channels, input.height, input.width)
    if isinstance(input, TextInput):
        return torch.ones(rows, input.length, dtype=torch.int64)
    boxes = torch.zeros(rows, input.count, 5) if input.boxes else None
    return Tokens(torch.zeros(rows, input.count, input.dim), torch.ones(rows, input.count, dtype=torch.bool), boxes)


def _places(input: InputSpec) -> int:
    if isinstance(input, ImageInput):
        return input.height * input.width
    return input.length if isinstance(input, TextInput) else input.count


def _leaves(value: Tensor | Tokens) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [value.x, value.mask, *([] if value.boxes is None else [value.boxes])]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _autocast(device: str, precision: torch.dtype) -> AbstractContextManager[Any]:
    return nullcontext() if precision == torch.float32 else torch.autocast(device, dtype=precision)


class _Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make while it is entered, for as long as they live.

    Attributes:
        owner: To whom belongs what is made now.
        bytes: What is alive now.
        most: What was alive at the fullest moment.
        gradients_then: The part of it that was gradients of weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owner = BETWEEN
        self.bytes = self.most = self.gradients_then = 0
        self._gradients = 0
        self._left_out: set[int] = set()
        self._watches: dict[int, tuple[str, int, weakref.ref[Any]]] = {}

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Do not count these, whatever happens to them."""
        self._left_out |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def note_gradient(self, parameter: Tensor) -> None:
        """Take note that a parameter has got its gradient, which lives on."""
        if parameter.grad is not None:
            self._gradients += _bytes([parameter.grad])

    def by_owner(self) -> dict[str, int]:
        """Return what is alive now, by to whom it belongs."""
        sizes: dict[str, int] = {}
        for owner, size, _ in self._watches.values():
            sizes[owner] = sizes.get(owner, 0) + size
        return sizes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        # Views share the storage; it is one object for as long as any of them lives.
        key = storage._cdata
        if key in self._left_out or key in self._watches:
            return
        size = storage.nbytes()
        self._watches[key] = (self.owner, size, weakref.ref(storage, partial(self._drop, key, size)))
        self.bytes += size
        if self.bytes > self.most:
            self.most, self.gradients_then = self.bytes, self._gradients

    def _drop(self, key: int, size: int, _: Any) -> None:
        del self._watches[key]
        self.bytes -= size
